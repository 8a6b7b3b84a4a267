//! The web page's files, their headers, and `/recipes`, where the page begins.

use std::path::Path;

use axum::{body::Body, http::Request};
use galley_core::InputKind::{File, Json};
use http_body_util::BodyExt;
use serde_json::json;

use crate::support::{App, several};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// The status, a header by name, and the body.
struct Page {
    status: u16,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

async fn get(app: &App, path: &str, headers: &[(&str, &str)]) -> Page {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.send(request.body(Body::empty()).unwrap()).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Page {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

#[tokio::test]
async fn browsers_get_the_page_and_programs_the_list() {
    let app = App::new(Json).await;
    let page = get(&app, "/", &[("accept", BROWSER)]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.body.starts_with("<!doctype html>"));
    for headers in [&[][..], &[("accept", "*/*")], &[("accept", "text/plain")]] {
        let list = get(&app, "/", headers).await;
        assert_eq!(list.header("content-type"), "text/plain; charset=utf-8");
        assert!(list.body.contains("curl"), "{}", list.body);
        assert_eq!(list.header("vary"), "accept");
    }
    assert_eq!(
        page.header("vary"),
        "accept",
        "a cache must not give one for the other"
    );
}

#[tokio::test]
async fn every_file_of_the_page_is_served_with_its_type_and_a_strict_policy() {
    let app = App::new(Json).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let url = match name {
            "index.html" => "/".to_owned(),
            _ => format!("/page/{name}"),
        };
        let page = get(&app, &url, &[("accept", BROWSER)]).await;
        assert_eq!(page.status, 200, "{name}");
        assert_eq!(page.body, std::fs::read_to_string(&path).unwrap(), "{name}");
        let content_type = match path.extension().unwrap().to_str().unwrap() {
            "html" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        };
        assert_eq!(page.header("content-type"), content_type, "{name}");
        assert_eq!(page.header("cache-control"), "no-cache", "{name}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{name}");
        let policy = page.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("script-src 'self';"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains("http"),
            "{policy}"
        );
        files += 1;
    }
    assert!(files >= 10, "{files}");
}

#[tokio::test]
async fn the_page_names_no_other_host_and_no_absolute_path() {
    let app = App::new(Json).await;
    let page = get(&app, "/", &[("accept", BROWSER)]).await;
    let mut urls = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.body.split(attribute).skip(1) {
            let url = rest.split('"').next().unwrap();
            assert!(
                !url.starts_with('/') && !url.contains(':'),
                "{url} is not relative"
            );
            if !url.starts_with('#') {
                let found = get(&app, &format!("/{url}"), &[]).await;
                assert_eq!(found.status, 200, "{url}");
                urls += 1;
            }
        }
    }
    assert!(urls >= 5, "{urls}");
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again() {
    let app = App::new(Json).await;
    let mut tags = Vec::new();
    for url in ["/", "/page/page.css"] {
        let page = get(&app, url, &[("accept", BROWSER)]).await;
        let tag = page.header("etag").to_owned();
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".into(),
        ] {
            let headers = [("accept", BROWSER), ("if-none-match", &known)];
            let again = get(&app, url, &headers).await;
            assert_eq!(
                (again.status, again.body.as_str()),
                (304, ""),
                "{url} {known}"
            );
            assert_eq!(again.header("etag"), tag);
        }
        let headers = [("accept", BROWSER), ("if-none-match", "\"x\"")];
        assert_eq!(get(&app, url, &headers).await.status, 200, "{url}");
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1]);
}

#[tokio::test]
async fn files_that_are_not_of_the_page_are_unknown() {
    let app = App::new(Json).await;
    for path in [
        "/page/nothing.mjs",
        "/page/index.html",
        "/page/..%2findex.html",
        "/page/",
        "/page",
    ] {
        let reply = app.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.reason().contains("no such path"), "{path}");
    }
    assert_eq!(app.post("/", "", "x").await.status, 405);
    assert_eq!(app.post("/page/page.css", "", "x").await.status, 405);
}

#[tokio::test]
async fn recipes_are_listed_with_what_meta_says() {
    let app = several().await;
    let listing = app.get("/recipes").await.json();
    let recipes = listing["recipes"].as_array().unwrap();
    let names: Vec<_> = recipes.iter().map(|recipe| &recipe["name"]).collect();
    assert_eq!(names, [&json!("texts"), &json!("files")]);
    for recipe in recipes {
        let path = format!("/recipes/{}/meta", recipe["name"].as_str().unwrap());
        let meta = app.get(&path).await.json();
        for (key, value) in meta.as_object().unwrap() {
            assert_eq!(&recipe[key], value, "{key}");
        }
        // The catalog does not know these.
        assert_eq!(recipe["summary"], json!(null));
        assert_eq!(recipe["samples"], json!([]));
    }
    assert_eq!(app.post("/recipes", "", "x").await.status, 405);

    let lone = App::new(File).await.get("/recipes").await.json();
    assert_eq!(lone["recipes"][0]["input_type"], "file");
}
