//! The description of the routes, and that it is one of them all.

use std::collections::BTreeSet;

use axum::{body::Body, http::Request};
use galley::http::router;
use galley_core::InputKind::Json;
use serde_json::{Value, json};

use crate::{
    access::{KEY, guarded},
    support::{App, several},
};

async fn description(app: &App) -> Value {
    let request = Request::get("/openapi.json").header("x-api-key", KEY);
    app.ask(request.body(Body::empty()).unwrap()).await.json()
}

/// Each operation with its path and its method.
fn operations(description: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = description["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

#[tokio::test]
async fn every_route_is_described() {
    let app = App::new(Json).await;
    let description = description(&app).await;
    let described: BTreeSet<&str> = description["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    // axum does not list its routes, but its debugging output does.
    let router = format!("{:?}", router(app.state.clone()));
    let registered: BTreeSet<&str> = router
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with('/') && !text.contains("{*"))
        .collect();
    for known in ["/", "/infer", "/v2/models/{model}/infer", "/openapi.json"] {
        assert!(registered.contains(known), "{known}: {router}");
    }
    assert_eq!(described, registered);
}

#[tokio::test]
async fn every_description_is_of_a_route_and_its_methods() {
    let app = App::new(Json).await;
    let description = description(&app).await;
    let operations = operations(&description);
    for (template, _, _) in &operations {
        let path = template
            .replace("{name}", "fake")
            .replace("{model}", "fake")
            .replace("{version}", "1")
            .replace("{file}", "main.mjs");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let request = Request::builder().method(method).uri(&path);
            let status = app
                .send(request.body(Body::empty()).unwrap())
                .await
                .status();
            let is_described = operations
                .iter()
                .any(|(other, known, _)| other == template && known.eq_ignore_ascii_case(method));
            assert_eq!(status != 405, is_described, "{method} {path}: {status}");
            assert!(
                status != 404 || path.ends_with("/result"),
                "{method} {path}"
            );
        }
    }
    let ids: BTreeSet<&str> = operations
        .iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), operations.len());
}

#[tokio::test]
async fn what_is_referred_to_is_there() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let app = App::new(Json).await;
    let description = description(&app).await;
    let mut found = BTreeSet::new();
    references(&description, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for reference in found {
        let target = description.pointer(reference.strip_prefix('#').unwrap());
        assert!(target.is_some(), "{reference}");
    }
    let schema = |name: &str| &description["components"]["schemas"][name];
    assert_eq!(
        schema("Answer")["required"],
        json!(["success", "unique_id", "prediction", "reason"])
    );
    assert_eq!(schema("ErrorBody")["required"], json!(["error"]));
}

#[tokio::test]
async fn recipes_are_named() {
    let description = description(&several().await).await;
    let infer = &description["paths"]["/recipes/{name}/infer"]["post"];
    let name = infer["parameters"].as_array().unwrap();
    let name = name.iter().find(|parameter| parameter["name"] == "name");
    let name = name.unwrap();
    assert_eq!(name["schema"]["enum"], json!(["texts", "files"]));
    assert_eq!(
        (&name["in"], &name["required"]),
        (&json!("path"), &json!(true))
    );
}

#[tokio::test]
async fn keys_are_described_where_they_are_needed() {
    let open = ["/", "/livez", "/readyz", "/page/{file}"];
    for (app, has_keys) in [
        (App::new(Json).await, false),
        (guarded(Default::default()).await, true),
    ] {
        let description = description(&app).await;
        for (path, method, operation) in operations(&description) {
            let needs_one = has_keys && !open.contains(&path);
            let refusal = &operation["responses"]["401"];
            assert_eq!(refusal.is_object(), needs_one, "{method} {path}");
            let expected = json!([{"bearer": []}, {"api_key": []}]);
            let expected = if needs_one { expected } else { Value::Null };
            assert_eq!(operation["security"], expected, "{method} {path}");
        }
        let schemes = &description["components"]["securitySchemes"];
        assert_eq!(schemes["bearer"]["scheme"].is_string(), has_keys);
    }
}

#[tokio::test]
async fn paths_begin_where_the_description_lies() {
    let app = App::new(Json).await;
    for (prefix, expected) in [
        (None, "./"),
        (Some("/galley"), "/galley"),
        (Some("/a/b/"), "/a/b"),
        (Some("//elsewhere.example"), "./"),
        (Some("https://elsewhere.example"), "./"),
    ] {
        let mut request = Request::get("/openapi.json");
        if let Some(prefix) = prefix {
            request = request.header("x-forwarded-prefix", prefix);
        }
        let reply = app.ask(request.body(Body::empty()).unwrap()).await;
        let description = reply.json();
        assert_eq!(
            description["servers"],
            json!([{"url": expected}]),
            "{prefix:?}"
        );
        assert!(description["paths"].get("/infer").is_some());
        assert_eq!(reply.header("vary"), "x-forwarded-prefix");
    }
}
