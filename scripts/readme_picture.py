"""Write docs/causal_tracing.png, the README's picture: the first figure stored in the causal tracing notebook."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]


def main() -> None:
    notebook = nbformat.read(ROOT / "notebooks/detection/causal_tracing.ipynb", as_version=4)
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    target = ROOT / "docs/causal_tracing.png"
    target.write_bytes(base64.b64decode(pictures[0]))
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
