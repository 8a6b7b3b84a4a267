"""What galley knows, as its source says: the environment's variables, and the metrics that it registers."""

import re


def sources(root, *packages):
    return {path: path.read_text() for package in packages for path in sorted((root / package / "src").rglob("*.rs"))}


def variables(root):
    """Those of any command, wherever its flags are written down."""
    return set(re.findall(r'\benv = "([A-Z_]+)"', " ".join(sources(root, "server", "loadgen").values())))


def metrics(root):
    """What stands in `metrics`, a file or a folder."""
    return {word for word in words(root) if word.startswith("galley_")}


def words(root):
    """All that stands there between quotation marks: the values of most labels are among it."""
    texts = [text for path, text in sources(root, "server").items() if "metrics" in (path.stem, path.parent.name)]
    return set(re.findall(r'"([a-z_]+)"', " ".join(texts)))
