"""What is published, and what has to become of it."""

import json
import pathlib
import random
import struct
import subprocess
import zlib

REPOSITORY = pathlib.Path(__file__).parents[4]
PHOTOS = ["loadgen/data/photos", "recipes/efficientnet/examples", "recipes/efficientnet/tests/data/cases"]


def bomb():
    """A PNG of some hundred bytes that says it is 60,000 pixels wide and high."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def same_classes(answer, expected):
    """In the same order; scores may differ in their last digits, as batches do."""
    close = lambda one, two: one["class_id"] == two["class_id"] and abs(one["score"] - two["score"]) < 1e-4
    return len(answer) == len(expected) and all(map(close, answer, expected))


class Texts:
    """Texts for echo, whose answer is the text."""

    recipe = "echo"
    options = ["--option", "sleep=100ms", "--max-batch-size", "8"]

    def good(self, number):
        text = f"text {number}"
        return {"text": text}, {"text": text}

    def bad(self, number):
        # An id that is no text, and so no object that can be read.
        return None

    def same(self, answer, expected):
        return answer == expected


class Images:
    """Photos for an image recipe, whose answers are those of `galley predict`."""

    recipe = "efficientnet_lite0"

    def __init__(self, galley, folder, missing):
        photos = [path for place in PHOTOS for path in sorted((REPOSITORY / place).glob("*.jpg"))]
        self.photos = photos
        predict = [galley, "predict", self.recipe, "--batch", "1", *photos]
        # Some are no images, for which its status is 1.
        predicted = subprocess.run(predict, capture_output=True, text=True)
        answers = [json.loads(line) for line in predicted.stdout.splitlines()]
        assert len(answers) == len(photos)
        self.answers = [(photo, answer) for photo, answer in zip(photos, answers) if isinstance(answer, list)]
        photo = photos[0].read_bytes()
        (folder / "truncated.jpg").write_bytes(photo[: len(photo) // 3])
        (folder / "bomb.png").write_bytes(bomb())
        (folder / "link.jpg").symlink_to("/etc/passwd")
        self.wrong = [
            str(folder / "truncated.jpg"),
            str(folder / "bomb.png"),
            str(folder / "is-not-there.jpg"),
            f"http://127.0.0.1:{missing}/404.jpg",
            str(folder / "link.jpg"),
            "/etc/passwd",
            "http://169.254.169.254/latest/meta-data/",
        ]
        allowed = [str(folder), f"http://127.0.0.1:{missing}/", *(str(REPOSITORY / place) for place in PHOTOS)]
        # Of a size that is set nothing is measured while there is nothing to do.
        self.options = ["--allow", ",".join(allowed), "--threads", "1", "--max-batch-size", "4"]

    def good(self, number):
        photo, answer = self.answers[number % len(self.answers)]
        return {"uri": str(photo)}, answer

    def bad(self, number):
        return {"uri": self.wrong[number % len(self.wrong)]}

    def same(self, answer, expected):
        return same_classes(answer, expected)


class Batch:
    """Some messages with duplicates among them, and what is expected of each id."""

    def __init__(self, kind, name, count, seed):
        chance = random.Random(f"{seed} {name}")
        duplicates, bad = count // 10, max(1, count // 100)
        distinct = count - duplicates
        self.expected, lines = {}, []
        wrong = set(chance.sample(range(distinct), bad))
        for number in range(distinct):
            id = f"{name}-{number}"
            message = kind.bad(number) if number in wrong else None
            self.expected[id] = None
            if message is None:
                message, self.expected[id] = kind.good(number)
            lines.append(json.dumps({"id": id} | message))
        again = chance.sample(lines, duplicates)
        # Half of them while the broker knows their ids, half of them when it has forgotten.
        within, self.later = again[: duplicates // 2], again[duplicates // 2 :]
        chance.shuffle(lines)
        self.lines, known = [], set(within)
        for line in lines:
            self.lines += [line] * (1 + (line in known))
        self.within = len(within)
        self.bad = sum(expected is None for expected in self.expected.values())

    def parts(self, count):
        size = -(-len(self.lines) // count)
        return [self.lines[start : start + size] for start in range(0, len(self.lines), size)]
