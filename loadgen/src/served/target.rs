//! Where a recipe is served, and in which protocol: found out by asking the server, not by assuming.

use reqwest::{Client, Url};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    args::{ProtocolArg, TargetArgs},
    error::{Error, Result},
    report::record::ServerInfo,
};

/// A recipe on a server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where requests go.
    pub(crate) infer: Url,
    /// Where the server describes it.
    pub(crate) meta: Url,
    /// How it is asked.
    pub(crate) form: Form,
    /// What the server says of the recipe.
    pub(crate) info: ServerInfo,
}

/// How inputs go into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// fastDeploy's protocol as galley has it: texts as a JSON list, files as the parts of a form.
    Galley,
    /// The same of fastDeploy's own server, which takes no forms: files as a msgpack list.
    Fastdeploy,
    /// The Open Inference Protocol: texts as JSON, files as a binary tensor.
    Oip(Tensor),
}

/// An input of a model that takes texts or files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    datatype: String,
    /// Its dimensions; -1 is any size.
    shape: Vec<i64>,
}

impl Tensor {
    /// Whether its first dimension counts items.
    pub(crate) fn is_batched(&self) -> bool {
        self.shape.first() == Some(&-1)
    }

    /// The shape of so many items.
    pub(crate) fn shape_of(&self, items: usize) -> Vec<usize> {
        let rest = self.shape.iter().skip(1).map(|_| 1);
        std::iter::once(items).chain(rest).collect()
    }

    /// Whether it takes texts or files, one an item.
    fn takes_items(&self) -> bool {
        let single = |&size: &i64| size == 1 || size == -1;
        self.datatype == "BYTES" && !self.shape.is_empty() && self.shape.iter().all(single)
    }
}

/// Metadata of a model, as far as it is looked at.
#[derive(Deserialize)]
struct Model {
    name: String,
    #[serde(default)]
    inputs: Vec<Tensor>,
}

/// Metadata of a server.
#[derive(Deserialize)]
struct Server {
    name: String,
    version: String,
}

/// Asks a server.
struct Asking<'a> {
    client: &'a Client,
    url: &'a str,
    /// What it was found to be instead.
    seen: Vec<String>,
}

/// Looks for the recipe under `/recipes/NAME`, at the root, then under `/v2/models/NAME`, as far as `args` says.
///
/// # Errors
/// The server cannot be reached, or serves something else.
pub(crate) async fn find(
    client: &Client,
    url: &str,
    recipe: &str,
    args: &TargetArgs,
) -> Result<Target> {
    let recipe = args.model.as_deref().unwrap_or(recipe);
    let base = url.trim_end_matches('/');
    let mut asking = Asking {
        client,
        url,
        seen: Vec::new(),
    };
    if args.protocol != ProtocolArg::Oip {
        for path in [format!("{base}/recipes/{recipe}"), base.to_owned()] {
            if let Some(target) = asking.fastdeploy(&path, recipe).await? {
                return Ok(target);
            }
        }
    }
    if args.protocol != ProtocolArg::Fastdeploy
        && let Some(target) = asking.oip(base, recipe).await?
    {
        return Ok(target);
    }
    let seen = asking.seen.join(", ");
    Err(asking.bad(format!("expected a server of {recipe}, but {seen}")))
}

impl Asking<'_> {
    async fn fastdeploy(&mut self, path: &str, recipe: &str) -> Result<Option<Target>> {
        let meta = self.parse(format!("{path}/meta"))?;
        let info = match self.ask::<ServerInfo>(&meta).await? {
            Ok(info) => info,
            Err(status) => {
                self.seen.push(format!("{path}/meta answers {status}"));
                return Ok(None);
            }
        };
        match &info.name {
            Some(name) if name == recipe => (),
            Some(name) => {
                self.seen.push(format!("{path}/meta names {name}"));
                return Ok(None);
            }
            None => {
                self.seen.push(format!("{path}/meta names nothing"));
                return Ok(None);
            }
        }
        // fastDeploy's own server does not say what it takes.
        let form = match info.input_type {
            Some(_) => Form::Galley,
            None => Form::Fastdeploy,
        };
        Ok(Some(Target {
            infer: self.parse(format!("{path}/infer"))?,
            meta,
            form,
            info,
        }))
    }

    async fn oip(&mut self, base: &str, model: &str) -> Result<Option<Target>> {
        let path = format!("{base}/v2/models/{model}");
        let meta = self.parse(path.clone())?;
        let found = match self.ask::<Model>(&meta).await? {
            Ok(found) => found,
            Err(status) => {
                self.seen.push(format!("{path} answers {status}"));
                return Ok(None);
            }
        };
        let named = found
            .inputs
            .iter()
            .map(|input| format!("{} {}{:?}", input.name, input.datatype, input.shape));
        let named: Vec<String> = named.collect();
        let Some(input) = found.inputs.into_iter().find(Tensor::takes_items) else {
            return Err(self.bad(format!(
                "expected an input of texts or files (BYTES, [-1] or [-1, 1]) for {model}, got {}: what makes tensors of them has to \
                 stand before it, as in an ensemble",
                named.join(", ")
            )));
        };
        let server = self.parse(format!("{base}/v2"))?;
        let version = self.ask::<Server>(&server).await?.ok();
        let info = ServerInfo {
            name: Some(found.name),
            version: version.map(|server| format!("{} {}", server.name, server.version)),
            ..ServerInfo::default()
        };
        Ok(Some(Target {
            infer: self.parse(format!("{path}/infer"))?,
            meta,
            form: Form::Oip(input),
            info,
        }))
    }

    /// A document of the server's, or what it answers instead.
    async fn ask<T: DeserializeOwned>(&self, url: &Url) -> Result<Result<T, String>> {
        let answer = self.client.get(url.clone()).send().await;
        let answer = answer.map_err(|error| self.bad(format!("no answer ({})", cause(&error))))?;
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        if !status.is_success() {
            return Ok(Err(status.to_string()));
        }
        Ok(serde_json::from_slice(&body).map_err(|_| format!("{status} with something else")))
    }

    fn parse(&self, url: String) -> Result<Url> {
        Url::parse(&url).map_err(|error| self.bad(error.to_string()))
    }

    fn bad(&self, reason: String) -> Error {
        Error::Target {
            url: self.url.into(),
            reason,
        }
    }
}

/// The innermost reason of an error, where the useful word usually is.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
pub(super) fn tensor(name: &str, shape: &[i64]) -> Tensor {
    Tensor {
        name: name.into(),
        datatype: "BYTES".into(),
        shape: shape.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_of_items_has_one_element_each() {
        for (shape, of_three) in [
            (&[-1][..], vec![3]),
            (&[-1, 1], vec![3, 1]),
            (&[-1, -1], vec![3, 1]),
        ] {
            let tensor = tensor("text", shape);
            assert!(tensor.takes_items() && tensor.is_batched());
            assert_eq!(tensor.shape_of(3), of_three);
        }
        assert!(!tensor("text", &[1]).is_batched());
        for shape in [&[][..], &[-1, 128]] {
            assert!(!tensor("text", shape).takes_items(), "{shape:?}");
        }
        let pixels = Tensor {
            datatype: "FP32".into(),
            ..tensor("pixels", &[-1])
        };
        assert!(!pixels.takes_items());
    }
}
