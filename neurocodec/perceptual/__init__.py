"""Losses and networks for how a picture looks: deep features, LPIPS, DISTS, style, total variation, discriminators.

Pictures are float tensors (B, 3, H, W) in [0, 1]. Each part is an ordinary module or function that works alone.
"""
