//! Described routes at a path of their own.

use utoipa::openapi::{
    Object, PathItem, Required, Type,
    path::{Operation, ParameterBuilder, ParameterIn, Paths},
};
use utoipa_axum::router::UtoipaMethodRouter;

use crate::http::AppState;

/// Registers and describes a handler's methods at a path. A handler is often reached by several, so that its own
/// attribute says nothing of the path: neither the names in it, nor the operation's id, which must be unlike all others.
pub(in crate::http) fn at(
    path: &str,
    (schemas, described, methods): UtoipaMethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    let mut paths = Paths::new();
    for mut item in described.paths.into_values() {
        place(path, &mut item);
        paths.paths.insert(path.to_owned(), item);
    }
    (schemas, paths, methods)
}

fn place(path: &str, item: &mut PathItem) {
    let methods = [("get", &mut item.get), ("post", &mut item.post)];
    for (method, operation) in methods {
        if let Some(operation) = operation {
            operation.operation_id = Some(id(method, path));
            names_in(path).for_each(|name| add_name(operation, name));
        }
    }
}

/// `post_recipes_name_infer`.
fn id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .fold(method.to_owned(), |id, word| id + "_" + word)
}

fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn add_name(operation: &mut Operation, name: &str) {
    let description = match name {
        "version" => "The model's version",
        "file" => "A file of the web page",
        _ => "A recipe that is served",
    };
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(parameter.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_come_from_the_path() {
        let path = "/v2/models/{model}/versions/{version}/infer";
        assert_eq!(
            id("post", path),
            "post_v2_models_model_versions_version_infer"
        );
        assert!(names_in(path).eq(["model", "version"]));
        assert_eq!(id("get", "/"), "get");
        assert_eq!(names_in("/livez").count(), 0);
    }
}
