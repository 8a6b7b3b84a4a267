//! Streams over gRPC, and how connections end.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use futures::StreamExt;
use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use tonic::{Code, transport::Endpoint};

use crate::{
    grpc::{
        Client, Server, binary,
        client::{ModelInferRequest, ModelStatisticsRequest, infer_parameter::ParameterChoice},
        texts,
    },
    support::{NEVER, PATIENCE, until, within},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_survives_a_bad_request() {
    let (_server, mut client) = Server::json().await;
    let requests = (0..200).map(|number| {
        let text = match number {
            7 => "bad".to_owned(),
            _ => number.to_string(),
        };
        ModelInferRequest {
            id: number.to_string(),
            ..texts(&[&text])
        }
    });
    let requests: Vec<_> = requests.collect();
    let answers = client
        .model_stream_infer(futures::stream::iter(requests))
        .await
        .unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    assert_eq!(answers.len(), 200);
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, number.to_string());
        assert_eq!(response.model_name, "fake");
        let last = &response.parameters["triton_final_response"];
        assert_eq!(
            last.parameter_choice,
            Some(ParameterChoice::BoolParam(true))
        );
        if number == 7 {
            assert_eq!(answer.error_message, "not an image");
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(
                response.raw_output_contents,
                [binary(&[&format!("\"{number}\"")])]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_was_accepted_and_ends_streams() {
    // A connection that never began is not what ends it.
    let config = HttpConfig {
        header_timeout: NEVER,
        ..HttpConfig::default()
    };
    let mut server = Server::start(Json, 64, config).await;
    let mut client = server.client().await;
    server.controls.close();
    let accepted = tokio::spawn({
        let mut client = server.client().await;
        async move { client.model_infer(texts(&["a"])).await }
    });
    let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
    sender.send(texts(&["b"])).unwrap();
    let requests = futures::stream::unfold(requests, |mut requests| async move {
        Some((requests.recv().await?, requests))
    });
    let mut stream = client
        .model_stream_infer(requests)
        .await
        .unwrap()
        .into_inner();
    let request = || ModelStatisticsRequest {
        name: "fake".into(),
        version: String::new(),
    };
    // One of the two runs, the other waits; neither has ended.
    let both = "galley_in_flight{recipe=\"fake\"} 2";
    until(async || server.metrics().await.contains(both)).await;
    let _silent = TcpStream::connect(server.address).unwrap();
    server.engine.drain();
    server.stop.take().unwrap().send(()).unwrap();
    server.controls.open();
    assert_eq!(accepted.await.unwrap().unwrap().into_inner().id, "7");
    assert_eq!(stream.next().await.unwrap().unwrap().error_message, "");
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    // The caller never closed its side, and another connection never began; the server ends all the same.
    within(server.task).await.unwrap().unwrap().unwrap();
    assert!(client.model_statistics(request()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_begin_as_http2_is_closed() {
    let config = HttpConfig {
        header_timeout: Duration::from_millis(100),
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 4, config).await;
    let address = server.address;
    for first in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let closed = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(first.as_bytes()).unwrap();
            // The end, or a reset where something was left unread.
            match stream.read(&mut [0; 100]) {
                Ok(length) => length == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        });
        assert!(closed.await.unwrap(), "{first:?}");
    }
    // Others are served. On a busy machine a client of ours may be as slow as those, so it may try again.
    until(async || {
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let Ok(channel) = endpoint.connect().await else {
            return false;
        };
        let answer = Client::new(channel).model_infer(texts(&["a"])).await;
        answer.is_ok()
    })
    .await;
}
