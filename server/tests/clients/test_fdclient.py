"""fastDeploy's own client, unchanged, against one recipe of several and against a server of one."""

import json
import urllib.request

from fdclient import FDClient

TEXT = "i was hungry so i ordered a pizza then i went to the movies"


def posted(url, items):
    """What the same inputs give without the client."""
    request = urllib.request.Request(url, json.dumps(items).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["prediction"]


def as_lists(value):
    """The client reads lists as tuples."""
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value


def test_texts(server, lone_server):
    for url in [f"http://{server.http}/recipes/transformers_ner", f"http://{lone_server.http}"]:
        client = FDClient(url, request_timeout=300)
        assert client.input_type == "msgpack"
        answer = client.infer([TEXT, "another text"])
        assert answer["success"] is True, answer
        assert as_lists(answer["prediction"]) == posted(f"{url}/infer", [TEXT, "another text"])


def test_files_and_ids(server, photo):
    client = FDClient(f"http://{server.http}/recipes/efficientnet_lite0", request_timeout=300)
    answer = client.infer([photo, b"not an image"], unique_id="mine")
    assert answer["unique_id"] == "mine"
    first, second = answer["prediction"]
    assert first[0]["class"] == "espresso"
    assert "error" in second
    assert client.infer([photo, b"not an image"], unique_id="mine") == answer


def test_async(lone_server):
    client = FDClient(f"http://{lone_server.http}", request_timeout=300)
    accepted = client.infer_async([TEXT], unique_id="later")
    assert accepted["success"] is True
    # The same request by its id is the same job.
    assert client.infer([TEXT], unique_id="later")["success"] is True
