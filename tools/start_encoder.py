"""Bring the weights of the photo encoder's experiment into the form of ``ModesNet``, to start from.

    python tools/start_encoder.py amplitude.safetensors -o runs/start
    gidlite train modes --config configs/modes.json --start runs/start --out runs/modes

The experiment trained the encoder for the magnitude of latents; its heads are left behind, but for
the layer below the level's.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from gidlite.prior.modes import ModesNet

RESIDUAL = {"n1": "branch.0", "c1": "branch.2", "n2": "branch.3", "c2": "branch.5"}
ATTENTION = {
    "pos": "place", "n1": "norm", "qkv": "query_key_value", "out": "out", "n2": "mlp.0",
    "up": "mlp.1", "down": "mlp.3",
}  # fmt: skip
LAYERS = {"b4": [RESIDUAL] * 3, "b8": [RESIDUAL, ATTENTION] * 2, "b16": [ATTENTION] * 3}
LAYERS |= {"b32": [ATTENTION] * 2}


def renamed() -> dict[str, str]:
    """Return the new prefix of every old one."""
    names = {f"enc.rgb.{n}": f"encoder.color.{n}" for n in (0, 2)}
    names |= {f"head.{n}": f"pixels.{n}" for n in (0, 2)} | {
        f"amount.{n}": f"amount.{n}" for n in (0, 2)
    }
    for level, stride in enumerate((4, 8, 16, 32)):
        names |= {f"enc.i{stride}": f"encoder.enter.{level}"}
        names |= {f"enc.u{stride}": f"encoder.descend.{level}"}
        for number, layer in enumerate(LAYERS[f"b{stride}"]):
            old, new = f"enc.b{stride}.{number}", f"encoder.blocks.{level}.{number}"
            names |= {f"{old}.{key}": f"{new}.{value}" for key, value in layer.items()}
    return names


def main() -> None:
    """Read the command line, rename, and write a folder for --start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    names, found = renamed(), {}
    for key, value in load_file(options.weights).items():
        prefix, _, kind = key.rpartition(".")
        new = names.get(prefix)
        if new is not None:
            found[f"{new}.{kind}"] = value.float()
    torch.manual_seed(0)
    net = ModesNet()
    missing = net.load_state_dict(found, strict=False).missing_keys
    lost = [key for key in missing if key.startswith("encoder.")]
    if lost:
        raise SystemExit(f"{options.weights} lacks {', '.join(lost)}; is it the encoder's file?")
    torch.nn.init.constant_(net.level.bias, -1.5)
    net.save_pretrained(options.out)
    print(f"{options.out}  {len(found)} tensors taken over, {len(missing)} new")


if __name__ == "__main__":
    main()
