"""Reads a folder of .nic files in batches, as a training program would, and prints how fast.

python examples/nic_loader.py FOLDER [--batch 64] [--device auto]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.utils.data import DataLoader

from neurocodec.torch import NicFolder, SameSize, decode_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="pictures of one size at once (64)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read files (2)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (auto)")
    args = parser.parse_args()
    folder = NicFolder(args.folder)
    batches = SameSize(folder, args.batch, torch.Generator().manual_seed(0))
    started, total = time.perf_counter(), 0.0
    for files in DataLoader(folder, batch_sampler=batches, collate_fn=list, num_workers=args.workers):
        x = decode_batch(files, args.device).float() / 255  # (N, 3, H, W)
        total += float(x.mean()) * len(x)  # the training step; also waits for the device
    seconds = time.perf_counter() - started
    print(f"{len(folder)} pictures, mean {total / len(folder):.3f}, {len(folder) / seconds:.1f} pictures a second")


if __name__ == "__main__":
    main()
