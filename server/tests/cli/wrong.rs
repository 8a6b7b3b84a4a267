//! Wrong configuration ends the program before it serves: status 2, one line on stderr, nothing on stdout.

use crate::program::{Ended, galley, run};

#[track_caller]
fn says_in_one_line(ended: &Ended, code: i32, named: &[&str]) {
    let Ended { stdout, stderr, .. } = ended;
    assert_eq!(ended.code, Some(code), "{stderr}");
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in named {
        assert!(stderr.contains(word), "{word} is missing in: {stderr}");
    }
}

#[test]
fn wrong_settings_of_a_server() {
    for (args, named) in [
        (
            &["--recipes", "nonsense"][..],
            &["\"nonsense\"", "deepsegment_en"][..],
        ),
        (&["--dtype", "f16", "--device", "cpu"], &["--dtype", "f32"]),
        (&["--device", "cuda:x"], &["--device", "cuda:"]),
        (
            &["--recipes", "echo", "--option", "echo.nope=1"],
            &["echo.nope", "sleep"],
        ),
        (
            &["--recipes", "echo", "--option", "echo.sleep=soon"],
            &["echo.sleep"],
        ),
        (
            &[
                "--recipes",
                "transformers_ner",
                "--option",
                "transformers_ner.max_tokens=0",
            ],
            &["transformers_ner.max_tokens", "above 0"],
        ),
        (
            &[
                "--recipes",
                "efficientnet_lite0",
                "--option",
                "efficientnet_lite0.jpeg=device",
            ],
            &["efficientnet_lite0.jpeg", "CUDA", "libnvjpeg.so.13"],
        ),
        (
            &[
                "--recipes",
                "deepsegment_en",
                "--weights",
                "/no/such/folder",
            ],
            &["--weights", "/no/such/folder"],
        ),
        (&["--log", "a=b=c"], &["--log"]),
        (
            &["--recipes", "echo", "--jobs", "mysql://me:secret@host/x"],
            &["--jobs", "postgres://HOST/DATABASE", "mysql://..."],
        ),
        (
            &["--recipes", "echo", "--jobs", "/no/such/folder/jobs.db"],
            &["--jobs", "cannot open /no/such/folder/jobs.db"],
        ),
        (
            &["--recipes", "echo", "--job-lease", "1ms"],
            &["--job-lease", "100ms"],
        ),
        (
            &["--recipes", "echo", "--api-key-file", "/no/such/file"],
            &["--api-key-file", "/no/such/file"],
        ),
        (
            &["--recipes", "echo", "--api-key-file", "/dev/null"],
            &["--api-key-file", "/dev/null", "at least one key"],
        ),
        (
            &["--recipes", "echo", "--tls-cert", "/no/such/file"],
            &["--tls-cert", "--tls-key"],
        ),
        (
            &[
                "--recipes",
                "echo",
                "--tls-cert",
                "/no/such/file",
                "--tls-key",
                "/no/such/key",
            ],
            &["--tls-cert", "/no/such/file"],
        ),
        (
            &["--recipes", "echo", "--otlp-endpoint", "collector:4318"],
            &["--otlp-endpoint", "collector:4318"],
        ),
        (
            &["--recipes", "echo", "--cors-origin", "example.com"],
            &["--cors-origin", "example.com"],
        ),
    ] {
        let ended = run(galley(&[&["serve", "--port", "0"], args].concat()), "");
        says_in_one_line(&ended, 2, named);
    }
}

#[test]
fn weights_that_have_not_been_pulled() {
    let cache = tempfile::tempdir().unwrap();
    for command in [
        &[
            "serve",
            "--port",
            "0",
            "--recipes",
            "transformers_ner",
            "--weights",
            "hub",
        ][..],
        &["predict", "transformers_ner", "--weights", "hub", "a text"],
        // Without bundled weights, the hub's are what it takes.
        &["predict", "distilbert_sst2", "a text"],
    ] {
        let mut command = galley(command);
        command.env("HF_HUB_CACHE", cache.path());
        says_in_one_line(&run(command, ""), 2, &["galley pull"]);
    }
}

/// The cause is part of the message, and is not said again after it.
#[test]
fn a_folder_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().to_str().unwrap();
    let ended = run(
        galley(&[
            "predict",
            "transformers_ner",
            "--weights",
            weights,
            "a text",
        ]),
        "",
    );
    says_in_one_line(&ended, 2, &[weights]);
    let times = ended.stderr.matches("os error").count();
    assert_eq!(times, 1, "{}", ended.stderr);
}

#[test]
fn wrong_settings_of_other_commands() {
    let predict = run(galley(&["predict", "nonsense", "a text"]), "");
    says_in_one_line(&predict, 2, &["\"nonsense\"", "transformers_ner"]);
    let pull = run(galley(&["pull", "nonsense"]), "");
    says_in_one_line(&pull, 2, &["\"nonsense\""]);
    let pull = run(galley(&["pull", "echo"]), "");
    says_in_one_line(&pull, 2, &["echo has no hub weights", "bundled, synthetic"]);
}

/// Not wrong in itself, and another moment it may be free: a failure like any other.
#[test]
fn a_port_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let args = [
        "serve",
        "--port",
        &port,
        "--recipes",
        "echo",
        "--log",
        "error",
    ];
    says_in_one_line(&run(galley(&args), ""), 1, &[&address.to_string()]);
}

#[test]
fn wrong_settings_of_a_benchmark() {
    for (args, named) in [
        (&["nonsense"][..], &["\"nonsense\"", "deepsegment_en"][..]),
        (&["echo", "--option", "sleep"], &["--option", "KEY=VALUE"]),
    ] {
        let ended = run(galley(&[&["bench", "native"], args].concat()), "");
        says_in_one_line(&ended, 2, named);
    }
}
