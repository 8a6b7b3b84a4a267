//! What other servers of the protocol do besides and this one does not: clients that ask for it are told so in words.

/// The first part of a path under `/v2`, the beginning of gRPC's calls, and what there is to say.
const ABSENT: [(&str, &str, &str); 5] = [
    ("systemsharedmemory", "SystemSharedMemory", NO_MEMORY),
    ("cudasharedmemory", "CudaSharedMemory", NO_MEMORY),
    (
        "repository/models",
        "RepositoryModel",
        "models are neither loaded nor unloaded while this server runs; --recipes says which are served",
    ),
    (
        "trace",
        "TraceSetting",
        "what is traced cannot be set from outside; --otlp-endpoint sends traces",
    ),
    (
        "logging",
        "LogSettings",
        "what is logged cannot be set from outside; --log says what is",
    ),
];

const NO_MEMORY: &str =
    "this server shares no memory with its clients; send tensors within the request";

/// What there is to say of a path of an extension that is not here.
pub(super) fn absent(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix("/v2/")?;
    let known = ABSENT.iter().find(|(prefix, ..)| {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    known.map(|(.., words)| *words)
}

/// The same of a gRPC call.
pub(super) fn absent_call(name: &str) -> Option<&'static str> {
    let known = ABSENT.iter().find(|(_, call, _)| name.starts_with(call));
    known.map(|(.., words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_known_by_path_and_by_call() {
        for path in [
            "/v2/systemsharedmemory/status",
            "/v2/systemsharedmemory/region/r/register",
            "/v2/cudasharedmemory/unregister",
        ] {
            assert_eq!(absent(path), Some(NO_MEMORY), "{path}");
        }
        for call in ["SystemSharedMemoryRegister", "CudaSharedMemoryStatus"] {
            assert_eq!(absent_call(call), Some(NO_MEMORY), "{call}");
        }
        assert!(absent("/v2/repository/models/m/load").is_some());
        assert!(absent("/v2/trace/setting").is_some());
        assert!(absent_call("RepositoryModelLoad").is_some());
        for path in ["/v2", "/v2/tracers", "/v2/repository/index", "/trace"] {
            assert_eq!(absent(path), None, "{path}");
        }
        assert_eq!(absent_call("ModelInfer"), None);
    }
}
