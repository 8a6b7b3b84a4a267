//! Hostile URIs, one by one. What a file's links, a redirect or a name's addresses do is with [`crate::stream::fetch`].

use std::{io, net::SocketAddr, sync::Arc};

use reqwest::dns::{Name, Resolve};

use super::{resolver::PublicOnly, *};

const ALLOWED: [&str; 6] = [
    "https://img.example.com/a/b",
    "http://127.0.0.1:9000/ok/",
    "http://[fd00::7]:9000",
    "s3://bucket/images/",
    "gs://my-images",
    "az:",
];

fn guard(prefixes: &[&str]) -> Guard {
    let prefixes: Vec<String> = prefixes.iter().map(|&prefix| prefix.into()).collect();
    Guard::new(&prefixes, false).unwrap()
}

/// Each reaches nothing where no file is allowed and of the network only [`ALLOWED`].
const HOSTILE: &[&str] = &[
    // Files, in every spelling.
    "/etc/passwd",
    "etc/passwd",
    "./photo.jpg",
    "../../etc/passwd",
    "~/.ssh/id_rsa",
    "",
    "/proc/self/environ",
    "\\\\host\\share",
    "//host/share",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "file:etc/passwd",
    "file://localhost/etc/passwd",
    "file://host/etc/passwd",
    "FILE:///etc/passwd",
    " file:///etc/passwd",
    "file:///a/../etc/passwd",
    "file:///%2e%2e/etc/passwd",
    // Other schemes.
    "ftp://img.example.com/a/b/c.jpg",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "data:image/png;base64,AAAA",
    "dict://127.0.0.1:11211/stat",
    "ldap://127.0.0.1",
    "jar:https://img.example.com/a/b!/c",
    "javascript:alert(1)",
    "C:\\secret.jpg",
    "unix:/run/docker.sock",
    // Other hosts, ports and schemes than those allowed.
    "http://img.example.com/a/b/c.jpg",
    "https://img.example.com:8443/a/b/c.jpg",
    "https://img.example.com.evil.org/a/b/c.jpg",
    "https://evil.org/a/b/c.jpg",
    "https://evil.org/https://img.example.com/a/b/c.jpg",
    "https://evil.org#img.example.com/a/b/c.jpg",
    "https://evil.org?img.example.com/a/b/c.jpg",
    "https://img.example.com@evil.org/a/b/c.jpg",
    "https://img.example.com%40evil.org/a/b/c.jpg",
    "https://img.example.com\\@evil.org/a/b/c.jpg",
    "https://user@img.example.com/a/b/c.jpg",
    "https://user:secret@img.example.com/a/b/c.jpg",
    "https:///evil.org/a/b",
    "https://",
    "https://img.example.com./a/b/c.jpg",
    "https://127.0.0.1:9000/ok/a.jpg",
    // Other paths.
    "https://img.example.com/",
    "https://img.example.com/a",
    "https://img.example.com/a/bc/d.jpg",
    "https://img.example.com/A/b/c.jpg",
    "https://img.example.com/a/b/../c.jpg",
    "https://img.example.com/a/b/%2e%2e/c.jpg",
    "https://img.example.com/a/b/.%2E/c.jpg",
    "https://img.example.com/a/b/..%2fc.jpg",
    "https://img.example.com/a/b/..%5cc.jpg",
    "https://img.example.com/a/b/%252e%252e/c.jpg",
    "https://img.example.com/a/b/%252e%252e%252fc.jpg",
    "https://img.example.com/a/b\\..\\..\\c.jpg",
    "https://img.example.com/a/b/\t../c.jpg",
    // This machine and its network, in every spelling.
    "http://127.0.0.1/ok/a.jpg",
    "http://127.0.0.1:9001/ok/a.jpg",
    "http://127.1:9000/secret",
    "http://2130706433/ok/a.jpg",
    "http://0x7f000001/ok/a.jpg",
    "http://0177.0.0.1/ok/a.jpg",
    "http://127.0.0.2:9000/ok/a.jpg",
    "http://localhost:9000/ok/a.jpg",
    "http://0.0.0.0:9000/ok/a.jpg",
    "http://[::1]:9000/ok/a.jpg",
    "http://[::ffff:127.0.0.1]:9000/ok/a.jpg",
    "http://[::ffff:7f00:1]:9000/ok/a.jpg",
    "http://[::127.0.0.1]:9000/ok/a.jpg",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://①②⑦.⓪.⓪.①:9001/ok/a.jpg",
    "http://[fd00::7]:9001/a.jpg",
    // Buckets.
    "s3://bucket/secret/a.jpg",
    "s3://bucket/images/../secret/a.jpg",
    "s3://bucket/images/..%2fsecret/a.jpg",
    "s3://bucket/images2/a.jpg",
    "s3://other/images/a.jpg",
    "s3://user@bucket/images/a.jpg",
    "gs://my-images-2/a.jpg",
];

#[test]
fn hostile_uris_reach_nothing() {
    let guard = guard(&ALLOWED);
    for uri in HOSTILE {
        let judged = guard.judge(uri);
        assert!(judged.is_err(), "{uri} is {judged:?}");
    }
}

#[test]
fn nothing_at_all_is_allowed_unless_it_is_named() {
    let guard = guard(&[]);
    for uri in [
        "/a.jpg",
        "https://img.example.com/a/b/c.jpg",
        "s3://bucket/images/a.jpg",
    ] {
        assert_eq!(guard.judge(uri), Err(Refusal::NotAllowed), "{uri}");
    }
}

#[test]
fn what_is_named_is_allowed_in_every_spelling() {
    let guard = guard(&ALLOWED);
    for uri in [
        "https://img.example.com/a/b",
        "https://img.example.com/a/b/c.jpg?X-Signature=1",
        "HTTPS://IMG.example.com:443/a/b/c%20d.jpg",
        "https://img.example.com/x/../a/b/c.jpg",
        "http://127.0.0.1:9000/ok/a.jpg",
        "http://2130706433:9000/ok/a.jpg",
        "http://[fd00::7]:9000/a.jpg",
        "s3://bucket/images/a.jpg",
        "s3://bucket/images/a..b.jpg",
        "gs://my-images/a.jpg",
        "az://any/a.jpg",
    ] {
        let judged = guard.judge(uri);
        assert!(judged.is_ok(), "{uri} is {judged:?}");
    }
}

#[test]
fn a_scheme_alone_names_public_hosts() {
    let guard = guard(&["http:", "https://"]);
    assert!(guard.judge("http://evil.org/a.jpg").is_ok());
    assert!(guard.judge("https://1.1.1.1/a.jpg").is_ok());
    for uri in [
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://0x7f.1/",
        "https://[::1]/",
        "http://[::ffff:10.0.0.1]/",
    ] {
        assert!(
            matches!(guard.judge(uri), Err(Refusal::Address(_))),
            "{uri}"
        );
    }
}

#[test]
fn an_operator_s_own_list_may_name_any_file_and_nothing_else() {
    let guard = Guard::new(&[], true).unwrap();
    for (uri, path) in [
        ("a b.jpg", "a b.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("file:///a%20b.jpg", "/a b.jpg"),
        ("./a:b.jpg", "./a:b.jpg"),
    ] {
        assert_eq!(guard.judge(uri), Ok(Location::File(path.into())), "{uri}");
    }
    for uri in [
        "https://img.example.com/a",
        "s3://bucket/a",
        "a:b.jpg",
        "a\0b",
        "file:///a%00b",
        "file:///a?b",
        "",
    ] {
        assert!(guard.judge(uri).is_err(), "{uri}");
    }
}

#[test]
fn prefixes_that_are_none_are_refused_by_name() {
    for prefix in [
        "no/such/folder",
        "ftp://host/",
        "https://user@host/",
        "https://host/?a",
        "https:///",
        "",
    ] {
        let error = Guard::new(&[prefix.into()], false).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("--allow"), "{prefix}: {message}");
    }
}

#[test]
fn what_is_shown_of_a_uri_is_not_secret() {
    for (uri, expected) in [
        ("https://host/a?X-Signature=1", "https://host/a"),
        ("https://me:secret@host/a#b", "https://host/a"),
        ("https://host/a@b.jpg", "https://host/a@b.jpg"),
        ("/a?b#c@d", "/a?b#c@d"),
        ("s3://bucket/a", "s3://bucket/a"),
    ] {
        assert_eq!(shown(uri), expected);
    }
}

async fn resolve(found: &'static [&'static str]) -> Result<Vec<String>, String> {
    let look_up = move |_| {
        let found = found.iter().map(|&address| address.parse().unwrap());
        let found: Vec<SocketAddr> = found.collect();
        Box::pin(async move { io::Result::Ok(found) }) as _
    };
    let name: Name = "evil.org".parse().unwrap();
    let resolved = PublicOnly::new(Arc::new(look_up)).resolve(name).await;
    let addresses = |found: reqwest::dns::Addrs| found.map(|address| address.to_string());
    resolved
        .map(|found| addresses(found).collect())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn of_a_name_s_addresses_only_public_ones_are_connected_to() {
    let found = resolve(&["127.0.0.1:0", "1.1.1.1:0", "[::1]:0"]).await;
    assert_eq!(found, Ok(vec!["1.1.1.1:0".to_owned()]));
    for found in [
        &["169.254.169.254:0"][..],
        &["10.0.0.1:0", "[fd00::1]:0"],
        &["[::ffff:127.0.0.1]:0"],
    ] {
        let error = resolve(found).await.unwrap_err();
        assert!(error.contains("not a public address"), "{error}");
    }
}
