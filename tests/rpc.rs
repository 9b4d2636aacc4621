//! RPC servers that die, hang up or talk nonsense: an error each time, and the process goes on.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moe_offload::{
    Error, GenerateOptions, Message, MoeModel, MoeModelBuilder, connect_rpc, rpc_traffic,
};
use support::generate::greedy;
use support::load::on_cpu;
use support::model_files::demo;
use support::process::Server;

const PROMPT: &str = "What does this crate do?";

fn builder(endpoint: &str) -> MoeModelBuilder {
    let policy = "first-layers:1".parse().unwrap();
    on_cpu(demo()).rpc_server(endpoint).policy(policy).threads(1).context_tokens(256)
}

fn options() -> GenerateOptions {
    greedy(40)
}

fn text(model: &mut MoeModel) -> moe_offload::Result<String> {
    model.chat(&[Message::user(PROMPT)], &options())?.text()
}

fn assert_lost(error: &Error, server: &Server) {
    assert!(
        matches!(error, Error::RpcLost { endpoint, .. } if *endpoint == server.endpoint),
        "{error}"
    );
}

#[test]
fn one_server_under_two_names_is_one() {
    let server = Server::start();
    let (_, port) = server.endpoint.rsplit_once(':').unwrap();
    let by_name = format!("localhost:{port}");
    for names in [[&by_name, &server.endpoint], [&server.endpoint, &by_name]] {
        let model = builder(names[0]).rpc_server(names[1]).load().unwrap();
        let devices = model.plan().devices().iter();
        let servers: Vec<_> = devices.filter_map(|device| device.server.as_deref()).collect();
        assert_eq!(servers, [names[0]], "{names:?}");
    }
}

#[test]
fn a_server_killed_between_tokens_is_an_error_and_can_come_back() {
    let mut server = Server::start();
    let expected = text(&mut builder(&server.endpoint).load().unwrap()).unwrap();
    for killed_after in [0, 1, 7] {
        let mut model = builder(&server.endpoint).load().unwrap();
        let mut pieces = 0;
        let mut failure = None;
        for piece in model.chat(&[Message::user(PROMPT)], &options()).unwrap() {
            if pieces == killed_after {
                server.kill();
            }
            match piece {
                Ok(_) => pieces += 1,
                Err(error) => failure = Some(error),
            }
        }
        assert_lost(&failure.expect("an error"), &server);
        // The model stays lost, and so does a new one while this one holds the connection.
        assert!(matches!(
            text(&mut model).unwrap_err(),
            Error::ContextLost | Error::RpcLost { .. }
        ));
        server = Server::start_at(server.endpoint.clone());
        assert_lost(&builder(&server.endpoint).load().unwrap_err(), &server);
        drop(model);
        assert_eq!(text(&mut builder(&server.endpoint).load().unwrap()).unwrap(), expected);
    }
}

#[test]
fn a_server_killed_during_the_load_is_an_error() {
    for killed_at in [0.0, 0.5, 1.0] {
        let server = Arc::new(Mutex::new(Server::start()));
        let (endpoint, killer) = (server.lock().unwrap().endpoint.clone(), Arc::clone(&server));
        let kill = move |done: f32| {
            if done >= killed_at {
                killer.lock().unwrap().kill();
            }
        };
        let error = builder(&endpoint).on_progress(kill).load().unwrap_err();
        assert_lost(&error, &server.lock().unwrap());
    }
}

#[test]
fn a_server_killed_at_any_moment_is_an_error() {
    let mut server = Server::start();
    let mut lost = 0;
    for round in 0..12 {
        let endpoint = server.endpoint.clone();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10 + round * 25));
            server.kill();
            server
        });
        let outcome = builder(&endpoint).load().and_then(|mut model| {
            // Until it is gone.
            loop {
                text(&mut model)?;
            }
        });
        drop(killer.join().unwrap());
        let Err::<(), _>(error) = outcome else { unreachable!("the loop ends with an error") };
        lost += usize::from(matches!(error, Error::RpcLost { .. }));
        assert!(
            matches!(error, Error::RpcLost { .. } | Error::RpcUnreachable { .. }),
            "round {round}: {error}"
        );
        server = Server::start_at(endpoint);
    }
    assert!(lost > 0);
}

/// Accepts one connection and does with it what it is told.
fn impostor(act: impl FnOnce(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || act(listener.accept().unwrap().0));
    endpoint
}

#[test]
fn what_is_no_server_is_not_believed() {
    let hangs_up = impostor(drop);
    let error = connect_rpc(&hangs_up).unwrap_err();
    assert!(matches!(error, Error::RpcUnreachable { .. }), "{error}");

    // Greets well (version 7), then answers at a wrong length.
    let lies = impostor(|mut client| {
        let mut request = [0; 9 + 24];
        client.read_exact(&mut request).unwrap();
        let mut greeting = vec![0_u8; 8 + 28];
        greeting[0] = 28;
        greeting[8] = 7;
        client.write_all(&greeting).unwrap();
        let _ = client.write_all(&[0xff; 64]);
        let _ = client.read_to_end(&mut Vec::new());
    });
    let error = connect_rpc(&lies).unwrap_err();
    assert!(error.to_string().contains("wrong length"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_started_meanwhile_does_not_keep_the_server() {
    use std::process::{Command, Stdio};

    let server = Server::start();
    let model = builder(&server.endpoint).load().unwrap();
    // Inherits the engine's end of the connection, and outlives the model.
    let mut program = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    drop(model);
    // Past the crate, which has a relay of its own for this server.
    let mut client = std::net::TcpStream::connect(&server.endpoint).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut greeting = vec![14];
    greeting.extend(24_u64.to_le_bytes());
    greeting.extend([0; 24]);
    client.write_all(&greeting).unwrap();
    let greeted = client.read_exact(&mut [0; 8]);
    program.kill().unwrap();
    program.wait().unwrap();
    greeted.expect("the server is free");
}

#[test]
fn traffic_is_counted_by_token() {
    let server = Server::start();
    assert_eq!(rpc_traffic("nowhere:1"), None);
    let mut model = builder(&server.endpoint).load().unwrap();
    let loaded = rpc_traffic(&server.endpoint).unwrap();
    let on_server = model.memory()[0].weights_bytes;
    assert!(loaded.sent_bytes > on_server, "{loaded:?} for {on_server} bytes of weights");
    text(&mut model).unwrap();
    let spoken = rpc_traffic(&server.endpoint).unwrap();
    let tokens = model.stats().generated_tokens;
    let trips = spoken.round_trips - loaded.round_trips;
    assert!(tokens > 3);
    assert!(trips >= tokens && trips < 100 * tokens, "{trips} round trips for {tokens} tokens");
}
