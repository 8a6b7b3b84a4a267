"""`tritonclient`, over HTTP and gRPC, with the calls of its documentation."""

import queue
import urllib.request

import numpy
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

IMAGES, TEXTS, ECHO = "efficientnet_lite0", "transformers_ner", "echo"
SENTENCE = "My name is Sarah Johnson and I live in Portland."


@pytest.fixture(params=["http", "grpc"])
def protocol(request):
    return request.param


@pytest.fixture
def library(protocol):
    return {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]


@pytest.fixture
def client(library, protocol, server):
    client = library.InferenceServerClient(getattr(server, protocol))
    yield client
    client.close()


def as_dict(protocol, **options):
    """gRPC's answers as dictionaries, as HTTP's are anyway."""
    return {**options, "as_json": True} if protocol == "grpc" else options


def tensor(library, name, elements, **options):
    array = numpy.array(elements, dtype=object)
    tensor = library.InferInput(name, array.shape, "BYTES")
    tensor.set_data_from_numpy(array, **options)
    return tensor


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in [IMAGES, TEXTS, ECHO]:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")


def test_unknown_models(client):
    with pytest.raises(InferenceServerException, match="no such recipe"):
        client.get_model_metadata("other")
    with pytest.raises(InferenceServerException, match="no such version"):
        client.get_model_metadata(ECHO, "2")


def test_metadata(client, protocol):
    options = as_dict(protocol)
    server = client.get_server_metadata(**options)
    assert server["name"] == "galley"
    assert set(server["extensions"]) == {"binary_tensor_data", "statistics", "model_configuration"}
    model = client.get_model_metadata(IMAGES, **options)
    shapes = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in model["inputs"] + model["outputs"]}
    assert shapes == {
        "image": [-1, 1],
        "pixels": [-1, 3, 224, 224],
        "label": [-1, 5],
        "score": [-1, 5],
        "class_id": [-1, 5],
    }


def test_configuration(client, protocol):
    config = client.get_model_config(IMAGES, **as_dict(protocol))
    config = config.get("config", config)
    assert [tensor["name"] for tensor in config["input"]] == ["image", "pixels"]
    assert [[int(size) for size in tensor["dims"]] for tensor in config["input"]] == [[1], [3, 224, 224]]
    assert config["max_batch_size"] >= 4
    assert config["dynamic_batching"]["preferred_batch_size"][0] > 0


def test_index(client, protocol):
    index = client.get_model_repository_index(**as_dict(protocol))
    models = index["models"] if protocol == "grpc" else index
    assert {model["name"]: model["state"] for model in models} == {IMAGES: "READY", TEXTS: "READY", ECHO: "READY"}


def test_images(client, library, photo):
    answer = client.infer(IMAGES, [tensor(library, "image", [photo, photo])], request_id="42")
    labels, scores, ids = (answer.as_numpy(name) for name in ["label", "score", "class_id"])
    assert labels.shape == scores.shape == ids.shape == (2, 5)
    assert labels[0, 0] == labels[1, 0] == b"espresso"
    assert ids[0, 0] == 967 and ids.dtype == numpy.int64
    assert scores[0, 0] > 0.9 and scores.dtype == numpy.float32
    response = answer.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "42"


def test_shapes_with_the_dimension_that_the_configuration_names(client, library):
    texts = numpy.array([["a"], ["b"]], dtype=object)
    tensor = library.InferInput("text", texts.shape, "BYTES")
    tensor.set_data_from_numpy(texts)
    assert client.infer(ECHO, [tensor]).as_numpy("prediction").tolist() == [b'"a"', b'"b"']


def test_shared_memory_is_refused_in_words(client, library, protocol):
    for call in [
        lambda: client.register_system_shared_memory("region", "/region", 64),
        lambda: client.get_system_shared_memory_status(),
        lambda: client.unregister_system_shared_memory(),
        lambda: client.get_cuda_shared_memory_status(),
    ]:
        with pytest.raises(InferenceServerException, match="shares no memory"):
            call()
    text = library.InferInput("text", [1], "BYTES")
    text.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="shares no memory"):
        client.infer(ECHO, [text])


def test_a_raw_binary_request(server, photo):
    url = f"http://{server.http}/v2/models/{IMAGES}/infer"
    request = urllib.request.Request(url, photo, {"Inference-Header-Content-Length": "0"})
    with urllib.request.urlopen(request) as answer:
        length = int(answer.headers["Inference-Header-Content-Length"])
        result = tritonclient.http.InferResult.from_response_body(answer.read(), False, length)
    assert result.as_numpy("label")[0, 0] == b"espresso"


def test_pixels(client, library):
    pixels = numpy.zeros((3, 3, 224, 224), dtype=numpy.float32)
    pixels[1] = 0.5
    tensor = library.InferInput("pixels", pixels.shape, "FP32")
    tensor.set_data_from_numpy(pixels)
    scores = client.infer(IMAGES, [tensor]).as_numpy("score")
    assert scores.shape == (3, 5)
    # Answers do not depend on batch-mates.
    numpy.testing.assert_allclose(scores[0], scores[2], rtol=1e-4)
    assert abs(scores[0, 0] - scores[1, 0]) > 1e-4


def test_one_output(client, library, photo):
    outputs = [library.InferRequestedOutput("score")]
    answer = client.infer(IMAGES, [tensor(library, "image", [photo])], outputs=outputs)
    assert answer.as_numpy("score").shape == (1, 5)
    assert answer.as_numpy("label") is None
    with pytest.raises(InferenceServerException, match="no such output"):
        client.infer(
            IMAGES, [tensor(library, "image", [photo])], outputs=[library.InferRequestedOutput("nonsense")]
        )


def test_texts(client, library):
    answer = client.infer(TEXTS, [tensor(library, "text", [SENTENCE, "nothing"])])
    predictions = answer.as_numpy("prediction")
    assert predictions.shape == (2,)
    assert b'"word":"sarah"' in predictions[0]
    assert predictions[1] == b"[]"


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_json_and_binary_over_http(server, binary_input, binary_output):
    client = tritonclient.http.InferenceServerClient(server.http)
    text = tensor(tritonclient.http, "text", ["a", "ü", ""], binary_data=binary_input)
    output = tritonclient.http.InferRequestedOutput("prediction", binary_data=binary_output)
    answer = client.infer(ECHO, [text], outputs=[output]).as_numpy("prediction")
    texts = [element if isinstance(element, bytes) else element.encode() for element in answer]
    assert texts == [b'"a"', '"ü"'.encode(), b'""']


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_over_http(server, algorithm):
    client = tritonclient.http.InferenceServerClient(server.http)
    text = tensor(tritonclient.http, "text", ["long " * 1000])
    answer = client.infer(
        ECHO, [text], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    assert answer.as_numpy("prediction")[0] == b'"' + b"long " * 1000 + b'"'


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_over_grpc(server, algorithm):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    text = tensor(tritonclient.grpc, "text", ["long " * 1000])
    answer = client.infer(ECHO, [text], compression_algorithm=algorithm)
    assert answer.as_numpy("prediction")[0] == b'"' + b"long " * 1000 + b'"'


def test_timeout_and_priority(client, library, photo):
    image = tensor(library, "image", [photo])
    client.infer(IMAGES, [image], timeout=60_000_000)
    with pytest.raises(InferenceServerException, match="timeout"):
        client.infer(IMAGES, [image], timeout=1)
    with pytest.raises(InferenceServerException, match="priority"):
        client.infer(IMAGES, [image], priority=1)


def test_deadline_over_grpc(server, photo):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    image = tensor(tritonclient.grpc, "image", [photo] * 64)
    with pytest.raises(InferenceServerException) as error:
        client.infer(IMAGES, [image], client_timeout=0.01)
    assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_what_cannot_be_read(client, library, photo):
    with pytest.raises(InferenceServerException, match="item 1 of 2"):
        client.infer(IMAGES, [tensor(library, "image", [photo, b"not an image"])])
    with pytest.raises(InferenceServerException, match="expected datatype BYTES"):
        numbers = library.InferInput("text", [1], "INT32")
        numbers.set_data_from_numpy(numpy.array([1], dtype=numpy.int32))
        client.infer(TEXTS, [numbers])


def test_stream_over_grpc(server):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(100):
        text = tensor(tritonclient.grpc, "text", [f"text {number}"])
        client.async_stream_infer(ECHO, [text], request_id=str(number))
    for number in range(100):
        result, error = answers.get(timeout=300)
        assert error is None
        assert result.get_response().id == str(number)
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert result.as_numpy("prediction")[0] == f'"text {number}"'.encode()
    client.stop_stream()


def test_statistics(client, library, protocol):
    def statistics():
        answer = client.get_inference_statistics(TEXTS, **as_dict(protocol))
        return answer["model_stats"][0]

    before = statistics()
    client.infer(TEXTS, [tensor(library, "text", [SENTENCE] * 3)])
    after = statistics()
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 3
    for stage in ["success", "queue", "compute_input", "compute_infer", "compute_output"]:
        old, new = ((each["inference_stats"][stage]) for each in (before, after))
        assert int(new["count"]) - int(old.get("count", 0)) == 1, stage
    assert int(after["inference_stats"]["compute_infer"]["ns"]) > 0
    assert sum(int(batch["compute_infer"]["count"]) for batch in after["batch_stats"]) == int(after["execution_count"])
