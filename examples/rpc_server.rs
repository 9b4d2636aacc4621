//! Serves this machine's CPU and memory as a device for another process. See `--help`.

mod common;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::Parser;
use moe_offload::{Result, serve_rpc};

/// Serves this machine's CPU and memory as a device, through llama.cpp's RPC backend.
///
/// Use it with `chat --rpc HOST:PORT`. There is no encryption and no authentication, and llama.cpp
/// calls the protocol insecure: whoever reaches the address can misuse this process.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50052")]
    listen: String,
    /// Threads that compute
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<usize>)]
    threads: Option<usize>,
    /// Keep weights in this folder, so that a client does not send them again; for this server alone
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Allow an address that other machines can reach: only in a network that you trust
    #[arg(long)]
    allow_remote: bool,
}

fn main() {
    let arguments: Arguments = common::arguments();
    // What the engine complains about, such as a client's broken request.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    if let Err(message) = check_address(&arguments) {
        common::fail(&message);
    }
    if let Err(error) = serve(&arguments) {
        common::fail_by(&error);
    }
}

fn check_address(arguments: &Arguments) -> Result<(), String> {
    let listen = &arguments.listen;
    let mut addresses: Vec<SocketAddr> = listen
        .to_socket_addrs()
        .map_err(|error| format!("`{listen}` is no address such as 127.0.0.1:50052: {error}"))?
        .collect();
    addresses.retain(|address| !address.ip().is_loopback());
    match addresses.first() {
        None if arguments.allow_remote => Err(format!(
            "--allow-remote changes nothing: no other machine can reach {listen}; give an address of this machine \
             that others reach, as in --listen 0.0.0.0:50052, or leave it out"
        )),
        None => Ok(()),
        Some(address) if arguments.allow_remote => {
            eprintln!(
                "warning: {address} can be reached from other machines, without encryption or \
                 authentication: whoever reaches it can misuse this process"
            );
            Ok(())
        }
        Some(address) => Err(format!(
            "{address} can be reached from other machines, and there is no authentication; \
             give --allow-remote if every machine in that network is to be trusted"
        )),
    }
}

fn serve(arguments: &Arguments) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    serve_rpc(&arguments.listen, arguments.threads.unwrap_or(cores), arguments.cache.as_deref())
}
