//! What Kubernetes sets in the containers of a namespace that has a Service called `galley` or `galley-grpc`: `GALLEY_PORT` and
//! `GALLEY_GRPC_PORT`, with a URL where galley's own variables of these names have a number.

use clap::{Command, CommandFactory, FromArgMatches};

use crate::cli::Cli;

/// How the URL of a Service begins.
const SCHEMES: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// Reads the command line and the variables, without those that Kubernetes set, whose names come along.
#[must_use]
pub fn parse() -> (Cli, Vec<String>) {
    let mut ignored = Vec::new();
    let mut command = without_links(
        Cli::command(),
        &|name| std::env::var(name).ok(),
        &mut ignored,
    );
    let matches = command.get_matches_mut();
    let cli =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    (cli, ignored)
}

/// Says which variables were ignored, and how to be rid of them.
pub fn warn(ignored: &[String]) {
    for variable in ignored {
        tracing::warn!(
            variable,
            "ignored: it is of a Kubernetes Service of galley's name, not a port; enableServiceLinks: false in the pod keeps it out"
        );
    }
}

fn without_links(
    command: Command,
    value: &dyn Fn(&str) -> Option<String>,
    ignored: &mut Vec<String>,
) -> Command {
    let command = command.mut_args(|arg| {
        let name = arg.get_env().and_then(|name| name.to_str());
        match name.filter(|name| name.ends_with("_PORT") && is_link(value(name).as_deref())) {
            Some(name) => {
                let name = name.to_owned();
                if !ignored.contains(&name) {
                    ignored.push(name);
                }
                arg.env(None::<&'static str>)
            }
            None => arg,
        }
    });
    command.mut_subcommands(|sub| without_links(sub, value, ignored))
}

fn is_link(value: Option<&str>) -> bool {
    value.is_some_and(|value| SCHEMES.iter().any(|scheme| value.starts_with(scheme)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(variables: &[(&str, &str)]) -> (Command, Vec<String>) {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let mut ignored = Vec::new();
        let command = without_links(Cli::command(), &value, &mut ignored);
        (command, ignored)
    }

    #[test]
    fn urls_of_services_are_no_ports() {
        let (command, names) = ignored(&[
            ("GALLEY_PORT", "tcp://10.0.0.1:8080"),
            ("GALLEY_GRPC_PORT", "udp://10.0.0.2:8081"),
            ("GALLEY_HOST", "tcp://10.0.0.1:8080"),
        ]);
        assert_eq!(names, ["GALLEY_PORT", "GALLEY_GRPC_PORT"]);
        for name in ["serve", "health"] {
            let sub = command.find_subcommand(name).unwrap();
            let port = sub.get_arguments().find(|arg| arg.get_id() == "port");
            assert_eq!(port.unwrap().get_env(), None, "{name}");
        }
        command.debug_assert();
    }

    #[test]
    fn what_is_wrong_otherwise_is_left_to_be_told() {
        let (_, names) = ignored(&[("GALLEY_PORT", "80 80"), ("GALLEY_GRPC_PORT", "8081")]);
        assert!(names.is_empty());
    }
}
