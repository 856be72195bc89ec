"""Goldens for vision pipelines: small models of ultralytics, and what ultralytics, OpenCV and Pillow make of photographs.

    detector.onnx       a narrow YOLOv8, 192 x 192, seeded weights, scaled so that its scores and boxes spread
    detector11.onnx     the same of YOLO11
    *.webp              photographs that scikit-image and scikit-learn ship (public domain or CC0), lossless, half the size
    turned*.jpg         a ramp of colours as JPEG files of each Exif orientation
    expected.json       detections, classes, digests of resized images

usage: python make.py [OUT]; needs ultralytics, onnx, opencv-python-headless, pillow, scikit-image, scikit-learn
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from skimage import data  # noqa: E402
from sklearn.datasets import load_sample_image  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402
from ultralytics.utils import DEFAULT_CFG  # noqa: E402

SEED = 20260101
SIDE = 192
CLASSES = ["disc", "box", "bar", "ring"]
# x, y, width, height of parts of the photographs: wide, tall, square, tiny, odd.
CROPS = {
    "astronaut": [(0, 0, 256, 256), (40, 10, 101, 240), (3, 5, 250, 77), (90, 20, 160, 160)],
    "coffee": [(0, 0, 300, 200), (10, 0, 33, 199), (60, 40, 207, 111), (100, 50, 180, 143)],
    "chelsea": [(0, 0, 225, 150), (30, 20, 128, 128), (7, 9, 217, 50), (80, 1, 61, 149)],
    "china": [(0, 0, 320, 213), (20, 30, 300, 95), (111, 0, 64, 213), (200, 100, 17, 13)],
    "flower": [(0, 0, 320, 213), (60, 3, 213, 210), (5, 100, 311, 111), (150, 20, 99, 190)],
}
RESIZES = [("coffee", 640, 427), ("coffee", 150, 100), ("astronaut", 97, 203), ("china", 33, 21), ("flower", 321, 64), ("astronaut", 300, 40)]


def photographs() -> dict[str, np.ndarray]:
    """RGB u8 arrays, made smaller."""
    full = {
        "astronaut": data.astronaut(),
        "coffee": data.coffee(),
        "chelsea": data.chelsea(),
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    return {name: np.array(Image.fromarray(x).reduce(2)) for name, x in full.items()}


def spread(kind: type, config: str) -> torch.nn.Module:
    """A model of an eighth of the full width with seeded weights, whose scores and boxes spread as those of a trained one.

    Batch norms get the statistics of the photographs. The last layers are scaled so that a class's logits have mean -3 and
    deviation 2 over places, and sides of boxes, softmaxes over distances, become sharp.
    """
    from ultralytics.nn.tasks import yaml_model_load

    torch.manual_seed(SEED)
    cfg = yaml_model_load(config)
    cfg["scale"], cfg["scales"] = "n", {"n": [0.33, 0.125, 192]}
    model = kind(cfg, nc=len(CLASSES), verbose=False)
    model.names = dict(enumerate(CLASSES))
    batch = np.stack([cv2.resize(x, (SIDE, SIDE)) for x in photographs().values()])
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 1.0
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)
        head = model.model[-1]
        for branch, mean, deviation in ((head.cv3, -3.0, 2.0), (head.cv2, 0.0, 3.0)):
            for level in branch:
                seen = []
                hook = level[-1].register_forward_hook(lambda m, i, y: seen.append(y))
                model(x)
                hook.remove()
                y = seen[0].transpose(0, 1).flatten(1)
                gain = deviation / y.std(1)
                level[-1].weight *= gain[:, None, None, None]
                level[-1].bias.copy_((level[-1].bias - y.mean(1)) * gain + mean)
    return model.eval()


def wrap(model: torch.nn.Module, task: str, path: Path) -> YOLO:
    """The checkpoint as ultralytics loads it."""
    model.task, model.pt_path = task, str(path)
    model.args = {**vars(DEFAULT_CFG), "task": task, "imgsz": SIDE}
    torch.save({"model": model.half(), "train_args": model.args}, path)
    return YOLO(str(path))


def export(yolo: YOLO, side: int, to: Path) -> None:
    made = yolo.export(format="onnx", imgsz=side, opset=17, simplify=False, verbose=False)
    shutil.move(made, to)
    print(to, to.stat().st_size, flush=True)


def predict(yolo: YOLO, image: np.ndarray, **options) -> list[list[float]]:
    """Rows of x1, y1, x2, y2, score, class; ultralytics takes BGR."""
    found = yolo.predict(image[..., ::-1].copy(), imgsz=SIDE, rect=False, verbose=False, **options)[0]
    return [[round(float(v), 5) for v in row] for row in found.boxes.data]


def digest(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def yuv(image: np.ndarray) -> dict[str, str]:
    """Digests of what OpenCV makes of the planes of I420 and NV12; the planes are those that the test makes."""
    h, w = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    planes = cv2.cvtColor(np.ascontiguousarray(image[:h, :w]), cv2.COLOR_RGB2YUV_I420)
    flat = planes.reshape(-1)
    y, u, v = flat[: h * w], flat[h * w : h * w * 5 // 4], flat[h * w * 5 // 4 :]
    nv12 = np.concatenate([y, np.stack([u, v], 1).reshape(-1)]).reshape(h * 3 // 2, w)
    rgb = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
    assert (rgb == cv2.cvtColor(nv12, cv2.COLOR_YUV2RGB_NV12)).all()
    return {"width": w, "height": h, "rgb": digest(rgb), "planes": digest(planes)}


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    work = Path(tempfile.mkdtemp())
    photos = photographs()
    expected: dict = {"classes": CLASSES, "side": SIDE}
    for name, x in photos.items():
        Image.fromarray(x).save(out / f"{name}.webp", lossless=True, method=6)

    expected["resize"] = []
    for name, w, h in RESIZES:
        x = photos[name]
        pillow = np.array(Image.fromarray(x).resize((w, h), Image.Resampling.BILINEAR))
        grey = np.array(Image.fromarray(x).convert("L"))
        expected["resize"].append(
            {
                "image": name,
                "width": w,
                "height": h,
                "opencv": digest(cv2.resize(x, (w, h), interpolation=cv2.INTER_LINEAR)),
                "pillow": digest(pillow),
                "grey": digest(grey),
            }
        )
    half = photos["coffee"][:200, :300]
    expected["halved"] = digest(cv2.resize(half, (150, 100), interpolation=cv2.INTER_LINEAR))

    from torchvision.transforms import v2

    expected["torchvision"] = []
    for name in photos:
        t = v2.Compose([v2.Resize(61), v2.CenterCrop(56)])
        expected["torchvision"].append({"image": name, "pixels": digest(np.array(t(Image.fromarray(photos[name]))))})

    expected["yuv"] = {name: yuv(photos[name]) for name in ("astronaut", "china")}
    y, x = np.mgrid[0:40, 0:60]
    marked = np.stack([x * 4, y * 6, np.full_like(x, 128)], -1).astype(np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(marked).save(out / f"turned{orientation}.jpg", exif=exif, quality=95, subsampling=0)

    expected["detect"] = []
    options = (
        {"conf": 0.25, "iou": 0.7},
        {"conf": 0.4, "iou": 0.45},
        {"conf": 0.2, "iou": 0.6, "classes": [1, 3], "max_det": 7},
    )
    for name, config in (("detector", "yolov8n.yaml"), ("detector11", "yolo11n.yaml")):
        detector = wrap(spread(DetectionModel, config), "detect", work / f"{name}.pt")
        for option in options:
            for image, crops in CROPS.items():
                for x, y, w, h in crops:
                    rows = predict(detector, photos[image][y : y + h, x : x + w], **option)
                    expected["detect"].append(
                        {"model": name, "image": image, "crop": [x, y, w, h], "options": option, "rows": rows}
                    )
        export(detector, SIDE, out / f"{name}.onnx")
    print("detections", [len(e["rows"]) for e in expected["detect"]], flush=True)
    (out / "expected.json").write_text(json.dumps(expected, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
