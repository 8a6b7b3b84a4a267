//! HTTP model-serving server with a built-in benchmark client.
