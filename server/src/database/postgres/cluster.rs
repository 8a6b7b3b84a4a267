//! A server of its own for a test: it lies in a temporary folder and ends with it.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio_postgres::Config;

use super::Database;

/// As whom it runs where the test is root, whom PostgreSQL refuses.
const USER: &str = "nobody";

pub(crate) struct Cluster {
    bin: PathBuf,
    folder: TempDir,
    port: u16,
}

impl Cluster {
    /// None, and a line that says so, where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = bin() else {
            eprintln!("SKIPPED: the table in PostgreSQL was not tried: there is no initdb");
            return None;
        };
        // Not below a home that another user may not enter.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        if is_root() {
            run(Command::new("chown").arg(USER).arg(folder.path()));
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let cluster = Self { bin, folder, port };
        let data = cluster.data();
        run(cluster.command("initdb").args([
            "-D", &data, "-A", "trust", "-U", "galley", "-E", "UTF8", "-N",
        ]));
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        );
        let log = cluster.folder.path().join("log");
        run(cluster
            .command("pg_ctl")
            .args(["-D", &data, "-w", "-o", &options, "-l"])
            .arg(log)
            .arg("start"));
        Some(cluster)
    }

    /// An empty database.
    pub(crate) async fn database(&self, name: &str) -> Config {
        let server = format!("postgres://galley@127.0.0.1:{}", self.port);
        let config = |name: &str| format!("{server}/{name}").parse::<Config>().unwrap();
        let all = Database::open(config("postgres"), &[]).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        all.query(&create, &[]).await.unwrap();
        config(name)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match is_root() {
            false => Command::new(program),
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", USER, "--"]).arg(program);
                command
            }
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.data();
        let mut stop = self.command("pg_ctl");
        let stop = stop.args(["-D", &data, "-m", "immediate", "stop"]);
        // The test has said already what it has to say.
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Debian's folder of the newest version, or wherever `initdb` is found.
fn bin() -> Option<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql")
        .read_dir()
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders
        .into_iter()
        .find(|folder| folder.join("initdb").is_file())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn run(command: &mut Command) {
    // Its descendants would hold a pipe open.
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(ended.unwrap().success(), "{command:?}");
}
