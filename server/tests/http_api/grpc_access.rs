//! API keys and TLS over gRPC.

use std::{io, sync::Arc};

use galley::{access::Access, http::HttpConfig};
use galley_core::InputKind::Json;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};
use tonic::{Code, Request, transport::Endpoint};

use crate::{
    access::{KEY, keys},
    grpc::{Client, Server, client::*, texts},
    tls::certificate,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_call_needs_a_key() {
    let access = Access {
        keys: Some(keys()),
        tls: None,
    };
    let config = HttpConfig {
        access,
        open_metrics: true,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;
    let mut client = server.client().await;
    for refused in [
        client.model_infer(texts(&["a"])).await.map(|_| ()),
        client.server_live(ServerLiveRequest {}).await.map(|_| ()),
        client
            .server_metadata(ServerMetadataRequest {})
            .await
            .map(|_| ()),
    ] {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("X-API-Key"), "{status}");
    }
    let bearer = format!("Bearer {KEY}");
    for (name, value) in [("authorization", bearer.as_str()), ("x-api-key", KEY)] {
        let mut request = Request::new(texts(&["a"]));
        request.metadata_mut().insert(name, value.parse().unwrap());
        assert_eq!(
            client.model_infer(request).await.unwrap().into_inner().id,
            "7"
        );
    }
    let mut request = Request::new(texts(&["a"]));
    let wrong = "Bearer 0123".parse().unwrap();
    request.metadata_mut().insert("authorization", wrong);
    let status = client.model_infer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_over_tls() {
    let (tls, pair) = certificate();
    let access = Access {
        keys: None,
        tls: Some(tls),
    };
    let config = HttpConfig {
        access,
        ..HttpConfig::default()
    };
    let server = Server::start(Json, 64, config).await;

    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(client));
    let address = server.address;
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let stream = connector.connect(name, stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The scheme says only what the connector already does.
    let endpoint = Endpoint::from_static("http://localhost");
    let mut client = Client::new(endpoint.connect_with_connector(connect).await.unwrap());
    let answer = client.model_infer(texts(&["a"])).await.unwrap();
    assert_eq!(answer.into_inner().id, "7");
}
