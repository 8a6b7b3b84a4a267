//! `GET /`: the web page for browsers, and a plain list of what is served for everyone else.
//!
//! The page's files lie in `server/page`, are part of the binary and are served as they are: no build step, and nothing
//! from elsewhere, which its Content-Security-Policy makes sure of. Its URLs are relative, so that it works behind a proxy
//! that adds a path. The files themselves say nothing about this server; what the page shows it asks for, like any client.

use std::sync::LazyLock;

use axum::{
    Extension,
    extract::{Path, Request, State as Extract},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{AppState, fastdeploy, guard::Stranger, openapi::at, probes};

/// Scripts, styles and pictures come from here, and so does all that they fetch; `blob:` is an image that was chosen.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    body: &'static str,
    /// Of its content, so that another version of the server has another.
    tag: HeaderValue,
}

/// The files that are included, each by its name and content type.
macro_rules! assets {
    ($($name:literal: $content_type:expr,)*) => {
        vec![$(Asset::new($name, $content_type, include_str!(concat!("../../page/", $name))),)*]
    };
}

static INDEX: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("", HTML, include_str!("../../page/index.html")));

/// What lies at `/page/NAME`.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets! {
        "answer_view.mjs": SCRIPT,
        "answers.mjs": SCRIPT,
        "api.mjs": SCRIPT,
        "ask.mjs": SCRIPT,
        "charts.mjs": SCRIPT,
        "dom.mjs": SCRIPT,
        "figures.mjs": SCRIPT,
        "format.mjs": SCRIPT,
        "icon.svg": SVG,
        "live.mjs": SCRIPT,
        "main.mjs": SCRIPT,
        "page.css": CSS,
        "prometheus.mjs": SCRIPT,
        "theme.js": SCRIPT,
    }
});

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(at("/", routes!(index)))
        .routes(at("/page/{file}", routes!(asset)))
}

/// The web page for browsers, and what is served in plain text for others
#[utoipa::path(get, path = "", tag = "page", responses(
    (status = 200, description = "The page, or the text", content(
        (String = "text/html; charset=utf-8"),
        (String = "text/plain; charset=utf-8"),
    )),
    (status = 304, description = "The page, unchanged"),
))]
async fn index(
    Extract(state): Extract<AppState>,
    stranger: Option<Extension<Stranger>>,
    headers: HeaderMap,
) -> Response {
    let mut response = if wants_html(&headers) {
        INDEX.answer(&headers)
    } else {
        probes::index(&state, stranger.is_some())
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// A file of the web page
#[utoipa::path(get, path = "", tag = "page", responses(
    (status = 200, description = "The file", content(
        (String = "text/javascript; charset=utf-8"),
        (String = "text/css; charset=utf-8"),
        (String = "image/svg+xml"),
    )),
    (status = 304, description = "Unchanged"),
    (status = 400, description = "The name is not UTF-8", body = String, content_type = "text/plain; charset=utf-8"),
    (status = 404, description = "There is no such file", body = fastdeploy::Answer<'static>),
))]
async fn asset(
    state: Extract<AppState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => asset.answer(&headers),
        None => fastdeploy::unknown_path(state, request).await,
    }
}

/// Browsers name HTML; `curl` and other programs take anything.
fn wants_html(headers: &HeaderMap) -> bool {
    listed(headers, header::ACCEPT).any(|range| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("text/html")
    })
}

/// The elements of a header that is a list.
fn listed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, body: &'static str) -> Self {
        let digest = Sha256::digest(body);
        // Sixteen digits tell the versions of a file apart.
        let hex: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let tag = HeaderValue::try_from(format!("\"{hex}\""))
            .expect("hexadecimal digits in quotes are a header's value");
        Self {
            name,
            content_type,
            body,
            tag,
        }
    }

    /// The file, or 304 to a browser that has it: browsers ask each time, so that no two versions are ever mixed.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let common = [
            (header::ETAG, self.tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (
                header::CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(POLICY),
            ),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            (
                header::REFERRER_POLICY,
                HeaderValue::from_static("no-referrer"),
            ),
        ];
        let known = listed(headers, header::IF_NONE_MATCH).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.as_bytes() == self.tag.as_bytes()
        });
        if known {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let content_type = [(header::CONTENT_TYPE, self.content_type)];
        (common, content_type, self.body).into_response()
    }
}
