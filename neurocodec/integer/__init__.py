"""The networks that coding runs, in integers: NumPy, C++ and torch give the same results."""
