"""Systems that make pictures, built from the perceptual networks and losses and trained by the one loop."""
