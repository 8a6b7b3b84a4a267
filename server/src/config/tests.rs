//! What is typed, and what becomes of it.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn config(args: &str) -> anyhow::Result<ServeConfig> {
    let cli = Cli::try_parse_from(format!("galley serve {args}").split_whitespace())?;
    match cli.command {
        Command::Serve(args) => ServeConfig::new(&args),
        other => panic!("expected serve, got {other:?}"),
    }
}

#[test]
fn without_arguments_the_bundled_recipes_run_on_the_cpu() {
    let config = config("").unwrap();
    let names: Vec<_> = config.recipes.iter().map(|entry| entry.name).collect();
    assert_eq!(names, galley_catalog::DEFAULT_RECIPES);
    assert!(config.recipes.iter().all(|entry| entry.bundled.is_some()));
    assert_eq!(config.address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.grpc_address, None);
    assert_eq!(config.model.dtype, DType::F32);
    assert_eq!(config.engine.max_batch_size, None);
    assert_eq!(config.http.max_body, 32 << 20);
}

#[test]
fn a_recipes_own_objective_goes_before_that_of_all() {
    let config = config("--recipes echo,deepsegment_en --slo 50ms --slo echo=5ms").unwrap();
    let of = |name| config.engine.objectives.get(name).copied();
    assert_eq!(of("echo"), Some(Duration::from_millis(5)));
    assert_eq!(of("deepsegment_en"), Some(Duration::from_millis(50)));
    let alone = self::config("--recipes echo,deepsegment_en --slo echo=5ms").unwrap();
    assert_eq!(alone.engine.objectives.len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    for (args, named) in [
        ("--recipes nonsense", "nonsense"),
        ("--recipes echo,echo", "twice"),
        ("--device tpu", "--device"),
        ("--device cuda:x", "cuda:"),
        ("--device cpu,tpu", "--device"),
        ("--dtype f16", "--dtype"),
        ("--timeout 0s", "--timeout"),
        ("--slo 0ms", "--slo"),
        ("--slo soon", "--slo"),
        ("--recipes echo --slo other=5ms", "other"),
        ("--recipes echo --slo 5ms --slo 6ms", "--slo"),
        ("--recipes echo --slo echo=5ms,echo=6ms", "--slo"),
        ("--timeout 5parsecs", "--timeout"),
        ("--write-timeout 0s", "--write-timeout"),
        ("--grpc-port 8080", "--grpc-port"),
        ("--host localhost:8080", "--host"),
        ("--max-batch-size 0", "--max-batch-size"),
        ("--max-queue-size 0", "--max-queue-size"),
        ("--max-body lots", "--max-body"),
        ("--option sleep=1s", "--option"),
        ("--recipes echo --option other.sleep=1s", "other"),
        ("--tls-cert cert.pem", "--tls-key"),
        ("--tls-key key.pem", "--tls-cert"),
        ("--cors-origin example.com", "--cors-origin"),
        ("--cors-origin https://example.com/page", "--cors-origin"),
        ("--cors-origin https://me@example.com", "--cors-origin"),
        ("--cors-origin ftp://example.com", "--cors-origin"),
        ("--cors-origin *", "--cors-origin"),
        ("--otlp-endpoint collector:4318", "--otlp-endpoint"),
        ("--weights synthetic:x", "--weights"),
        ("--recipes echo,deepsegment_en --weights .", "--weights"),
    ] {
        let error = format!("{:#}", config(args).expect_err(args));
        assert!(error.contains(named), "{args}: {error}");
    }
}

#[test]
fn a_drain_outlasts_every_request_unless_told_otherwise() -> anyhow::Result<()> {
    for (args, seconds) in [
        ("", 65),
        ("--timeout 10m", 605),
        ("--timeout 10m --drain-timeout 1m", 60),
    ] {
        assert_eq!(config(args)?.drain_timeout.as_secs(), seconds, "{args:?}");
    }
    Ok(())
}

#[test]
fn a_name_to_listen_on_is_looked_up() {
    let config = config("--host localhost --grpc-port 8081").unwrap();
    assert!(config.address.ip().is_loopback(), "{}", config.address);
    assert_eq!(config.address.port(), 8080);
    let grpc = config.grpc_address.unwrap();
    assert_eq!((grpc.ip(), grpc.port()), (config.address.ip(), 8081));
}

#[test]
fn origins_are_as_browsers_send_them() {
    let named = "HTTPS://Example.com/,http://localhost:3000,https://example.org:443";
    let config = config(&format!("--cors-origin {named}")).unwrap();
    assert_eq!(
        config.http.cors_origins,
        [
            "https://example.com",
            "http://localhost:3000",
            "https://example.org"
        ]
    );
}

#[test]
fn a_build_without_cuda_says_how_to_get_it() {
    if cuda_is_available() {
        return;
    }
    let error = config("--device cuda:0").unwrap_err().to_string();
    assert_eq!(
        error,
        "--device cuda:0: this build of galley is for the CPU alone; one with --features cuda has CUDA devices"
    );
}

#[test]
fn an_option_needs_no_recipe_where_there_is_only_one() {
    for args in [
        "--recipes echo --option sleep=5ms",
        "--recipes echo --option echo.sleep=5ms",
    ] {
        let config = config(args).unwrap();
        assert_eq!(
            config.model.load_options("echo", &Device::Cpu).options["sleep"],
            "5ms"
        );
    }
}
