"""Losses and networks for how a picture looks: deep features, LPIPS, DISTS, style, total variation, discriminators.

Pictures are float tensors (B, 3, H, W) in [0, 1]. Every part is an ordinary module or function and can be used alone.
"""
