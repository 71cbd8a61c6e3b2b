"""The networks that coding runs in integers: the same results in NumPy, in C++ and in torch."""
