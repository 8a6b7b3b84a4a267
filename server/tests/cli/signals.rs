//! Signals before a server is ready, and those that end none.
#![cfg(unix)]

use std::{
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::program::{PATIENCE, Server, galley};

/// A file that is read without end until somebody writes it: a server whose weights take long to load.
fn slow_file(dir: &Path) -> String {
    let path = dir.join("keys");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path.to_str().unwrap().to_owned()
}

fn signal(pid: u32, signal: &str) {
    let pid = pid.to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(sent.success());
}

fn wait(mut child: Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn loading(mut command: Command, file: &str) -> (Child, std::fs::File) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    // Opens when the server has opened it, too, and waits for what is in it.
    let file = std::fs::File::options().write(true).open(file).unwrap();
    (child, file)
}

#[test]
fn a_signal_while_loading_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = slow_file(dir.path());
    for name in ["-TERM", "-INT"] {
        let args = [
            "serve",
            "--port",
            "0",
            "--recipes",
            "echo",
            "--api-key-file",
            &file,
        ];
        let (child, _file) = loading(galley(&args), &file);
        signal(child.id(), "-HUP");
        signal(child.id(), name);
        assert_eq!(wait(child).code(), Some(0), "{name}");
    }
}

/// As in a container, where a signal without a handler is lost.
#[test]
fn so_it_does_as_the_first_process() {
    let unshare = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).args(args);
        command
    };
    if !unshare(&["true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: only root has namespaces of processes here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = slow_file(dir.path());
    let galley = env!("CARGO_BIN_EXE_galley");
    let args = [
        galley,
        "serve",
        "--port",
        "0",
        "--recipes",
        "echo",
        "--api-key-file",
        &file,
    ];
    let (child, _file) = loading(unshare(&args), &file);
    let inner = format!("/proc/{0}/task/{0}/children", child.id());
    let inner = std::fs::read_to_string(inner).unwrap();
    signal(inner.trim().parse().unwrap(), "-TERM");
    assert_eq!(wait(child).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_with_nothing_to_read_again_changes_nothing() {
    let server = Server::start(&["--recipes", "echo"]);
    server.hang_up();
    // It has arrived when another one after it has.
    server.hang_up();
    for _ in 0..3 {
        let livez = reqwest::get(format!("{}/livez", server.url)).await.unwrap();
        assert_eq!(livez.status(), 200);
    }
    server.terminate();
    let (status, _, stderr) = server.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
}
