"""A small convolutional net trained on the UCI digits that scikit-learn carries.

    python make.py            writes beside this file
        digits.onnx           the trained net: x f32 [n, 1, 8, 8] of pixels 0 to 1, logits f32 [n, 10]
        digits.safetensors    `calibration` u8 [64, 8, 8] from the training set; `test` u8 [719, 8, 8] and
                              `labels` u8 [719], which the net has not seen; pixels are 0 to 16

Needs torch==2.15.0 scikit-learn==1.9.1 onnx==1.23.2 safetensors numpy. Seeds are fixed.
"""

import io
import pathlib

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = pathlib.Path(__file__).parent


class Net(nn.Module):
    """A residual block, a depthwise layer, two activations, pooling and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.a = nn.Conv2d(16, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 32, 1)
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.hardswish(self.depth(x))
        x = nn.functional.silu(self.wide(x))
        x = nn.functional.max_pool2d(torch.relu(self.last(x)), 2)
        return self.head(x.flatten(1))


def main() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)
    digits = load_digits()
    split = train_test_split(digits.images, digits.target, test_size=719, random_state=7, stratify=digits.target)
    train, test, train_labels, labels = split
    pixels = lambda images: torch.tensor(images / 16.0, dtype=torch.float32).unsqueeze(1)  # noqa: E731
    net, x, y = Net(), pixels(train), torch.tensor(train_labels)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    epochs, batch = 40, 64
    steps = epochs * (len(x) // batch + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[at]), y[at]).backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        right = (net(pixels(test)).argmax(1).numpy() == labels).mean()
    print(f"{right:.4f} of the test set")
    buffer = io.BytesIO()
    torch.onnx.export(
        net, (x[:1],), buffer, input_names=["x"], output_names=["logits"],
        dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}}, dynamo=False,
    )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, HERE / "digits.onnx")
    arrays = {"calibration": train[:64], "test": test, "labels": labels}
    save_file({k: np.ascontiguousarray(v.astype(np.uint8)) for k, v in arrays.items()}, HERE / "digits.safetensors")


if __name__ == "__main__":
    main()
