//! The devices that the engine sees.

use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::call::{c_string, copied, guarded, path_string, table};
use super::locks::{self, RpcTurn};
use super::rpc::{self, Link};
use super::{backend, ffi, socket_owner};
use crate::device::{CPU, Device, DeviceKind};
use crate::error::{Error, Result};
use crate::limits::{CancelHandle, Limits};

/// The engine's name of its RPC backend.
const RPC: &str = "RPC";

/// How long a server may take to say how much memory it has. One that computes for somebody is not asked.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The devices that can hold layers, as they are now: GPUs and what [`connect_rpc`] added, or
/// integrated GPUs where there is nothing else. Empty on a machine that has only its CPU. A server
/// that no longer answers is left out.
///
/// This starts the engine and asks each device for its free memory, for which a GPU's driver may set
/// aside some of it; no model is loaded, nothing is computed, and no server is connected.
///
/// Names are the engine's: `CUDA0`, `Vulkan1`, `Metal`, in the driver's order, and `RPC0`, `RPC1`, ...
/// in the order in which this process first connected to the servers, whatever they have. A server
/// keeps its number as long as the process lives, also if it dies and comes back. Another process may
/// number them otherwise; there the address (the device's description) is the name that stays.
///
/// # Errors
/// [`Error::Engine`] if the engine cannot start.
pub fn devices() -> Result<Vec<Device>> {
    with_memory(&rows()?, |_| true, &Limits::default())
}

/// The devices of this machine and those of the given RPC servers, which are connected first. What a load is
/// cancelled with ends this too.
pub(crate) fn devices_with(
    rpc_servers: &[String],
    cancel: Option<&CancelHandle>,
) -> Result<Vec<Device>> {
    let limits = Limits::of_load(cancel);
    let mut servers: Vec<&String> = Vec::new();
    for endpoint in rpc_servers {
        check_endpoint(endpoint)?;
        if let Some(same) = known_as(endpoint, &servers)? {
            tracing::warn!(
                "the RPC server {endpoint} is {same} under another name; it is taken once"
            );
            continue;
        }
        connect(endpoint, &limits)?;
        servers.push(endpoint);
    }
    // The engine describes a server's devices by its endpoint. Others are not even asked: a server
    // that is busy with another client would be waited for.
    let wanted = |row: &Row| row.backend != RPC || servers.contains(&&row.description);
    let devices = with_memory(&rows()?, wanted, &limits)?;
    // A device that does not answer is left out, but not one that was asked for by name.
    for endpoint in servers {
        link(endpoint)?.check()?;
        if !devices.iter().any(|device| device.server() == Some(endpoint)) {
            return Err(silent(endpoint));
        }
    }
    Ok(devices)
}

/// The one of these connected servers to which this other name leads.
fn known_as<'a>(endpoint: &str, servers: &[&'a String]) -> Result<Option<&'a String>> {
    for &server in servers {
        if server != endpoint && rpc::leads_to(endpoint, &*link(server)?) {
            return Ok(Some(server));
        }
    }
    Ok(None)
}

/// The devices of these names that answer.
pub(crate) fn devices_named(names: &[&str]) -> Result<Vec<Device>> {
    with_memory(&rows()?, |row| names.contains(&row.name.as_str()), &Limits::default())
}

fn with_memory(
    rows: &[Row],
    wanted: impl Fn(&Row) -> bool,
    limits: &Limits,
) -> Result<Vec<Device>> {
    let wanted: Vec<&Row> = rows.iter().filter(|row| wanted(row)).collect();
    let devices = in_order(&wanted).into_iter().map(|row| row.device(limits));
    devices.filter_map(Result::transpose).collect()
}

/// Those that can hold layers, in the engine's own order: servers first, so that the output, which
/// goes with the last device, stays on this machine; integrated GPUs only where there is no card.
fn in_order<'a>(rows: &[&'a Row]) -> Vec<&'a Row> {
    let of_kind =
        |kind: DeviceKind| rows.iter().copied().filter(move |row| row.kind() == Some(kind));
    let mut local: Vec<&Row> = of_kind(DeviceKind::Gpu).collect();
    if local.is_empty() {
        local.extend(of_kind(DeviceKind::IntegratedGpu));
    }
    of_kind(DeviceKind::Remote).chain(local).collect()
}

/// Connects to the RPC server at `endpoint` (`host:port`), so that its devices appear among
/// [`devices`]. Connecting again only sees whether it still answers.
///
/// llama.cpp calls its RPC backend experimental and insecure: no encryption, no authentication.
/// Use it on this machine or in a network that you trust. A server serves one process at a time; one
/// that is busy, or says nothing, is waited for, for half a minute. If it goes away while a model uses it, the model's
/// next call fails with [`Error::RpcLost`]; when all models that used it are dropped, it can be
/// connected again.
///
/// # Errors
/// [`Error::InvalidOption`] for an endpoint that is none, [`Error::RpcUnreachable`] if no server
/// answers, [`Error::RpcLost`] if models still use a connection that broke,
/// [`Error::MissingBackend`] if the engine was built without RPC.
pub fn connect_rpc(endpoint: &str) -> Result<()> {
    connect(endpoint, &Limits::default())
}

fn connect(endpoint: &str, limits: &Limits) -> Result<()> {
    check_endpoint(endpoint)?;
    backend::init()?;
    let link = link(endpoint)?;
    // The engine is given the relay's address, never the server's.
    let relay = c_string("the endpoint", link.relay())?;
    let turn = RpcTurn::to_ask(limits, QUESTION_TIMEOUT)?;
    let mut server = ptr::null_mut();
    // SAFETY: the string lives during the call; the engine copies it. The registry entry is the
    // engine's and lives as long as the process.
    let connected = guarded(|message| unsafe {
        ffi::moe_rpc_connect(relay.as_ptr(), &raw mut server, message)
    });
    limits.check().and(turn.check().map_err(|_| silent(endpoint)))?;
    connected.map_err(|failure| {
        if failure.is_missing() {
            return missing_rpc();
        }
        let reason = link.reason().unwrap_or(failure.reason);
        Error::RpcUnreachable { endpoint: endpoint.to_owned(), reason }
    })?;
    drop(turn);
    link.check()?;
    let Some(_writing) = locks::write_registry() else {
        let reason = "a new server cannot be added from inside a load's callback".to_owned();
        return Err(Error::Engine { operation: "register an RPC server", reason });
    };
    // SAFETY: `server` was just made by the engine, and nobody looks at the list meanwhile.
    guarded(|message| unsafe { ffi::moe_rpc_register(server, message) })
        .map_err(|failure| failure.into_error("register an RPC server"))
}

/// Serves this machine's CPU and memory as a device at `endpoint` (`host:port`). Returns only with
/// an error; the engine itself reports connections on standard output.
///
/// With a folder as `cache` the server keeps the larger tensors of weights there (over 10 MiB each),
/// and a client that loads them again does not send them. The folder must be this server's alone. What a
/// server that was ended left half-written is found by its checksum and removed at the start, which
/// reads the whole cache once. Nothing else is ever removed.
///
/// Whoever reaches the address can use this process: see [`connect_rpc`].
///
/// # Errors
/// [`Error::Engine`] if the address cannot be listened at, [`Error::Io`] for a cache that cannot be
/// used, [`Error::MissingBackend`] if the engine was built without RPC.
pub fn serve_rpc(endpoint: &str, threads: usize, cache: Option<&Path>) -> Result<()> {
    check_threads(threads)?;
    check_endpoint(endpoint)?;
    backend::init()?;
    let endpoint = c_string("the endpoint", endpoint)?;
    let cache = cache.map(|folder| rpc::clean_cache(folder).and_then(|()| path_string(folder)));
    let cache = cache.transpose()?;
    let cache = cache.as_ref().map_or(ptr::null(), |folder| folder.as_ptr());
    // SAFETY: the strings live during the call, which returns only when the server has stopped.
    guarded(|message| unsafe { ffi::moe_rpc_serve(endpoint.as_ptr(), cache, threads, message) })
        .map_err(|failure| {
            if failure.is_missing() { missing_rpc() } else { failure.into_error("serve over RPC") }
        })
}

/// No answer to a plain question, which takes no server long.
fn silent(endpoint: &str) -> Error {
    Error::RpcUnreachable { endpoint: endpoint.to_owned(), reason: silence() }
}

fn silence() -> String {
    format!("no answer within {} s", QUESTION_TIMEOUT.as_secs())
}

/// The connection to this server, whether or not there is one yet.
fn link(endpoint: &str) -> Result<Arc<Link>> {
    rpc::link(endpoint, socket_owner::is_open_here)
}

/// So few threads are let be on any machine: where they are more than its CPUs they slow each other down,
/// but what they do ends.
const FEW_THREADS: usize = 4;

/// The engine's threads wait for each other by spinning, so that those that have no CPU hold up all others:
/// 64 on 2 CPUs take minutes for a few tokens.
pub(crate) fn check_threads(threads: usize) -> Result<()> {
    // By affinity and control group.
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    check_threads_on(cpus, threads)
}

/// The limit of 512 is ggml's own (`GGML_MAX_N_THREADS`).
fn check_threads_on(cpus: usize, threads: usize) -> Result<()> {
    if !(1..=512).contains(&threads) {
        let (option, value) = ("threads", threads.to_string());
        return Err(Error::InvalidOption { option, value, expected: "from 1 to 512" });
    }
    if threads > cpus.max(FEW_THREADS) {
        return Err(Error::TooManyThreads { threads, cpus });
    }
    Ok(())
}

/// `host:port`; the engine takes an assertion to say that it is not.
fn check_endpoint(endpoint: &str) -> Result<()> {
    let (host, port) = endpoint.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || port.parse::<u16>().is_err() {
        let (option, value) = ("the endpoint", format!("`{endpoint}`"));
        return Err(Error::InvalidOption { option, value, expected: "HOST:PORT" });
    }
    Ok(())
}

fn missing_rpc() -> Error {
    Error::MissingBackend {
        what: "RPC backend",
        remedy: if ffi::BACKENDS_DIR.is_some() {
            "put the library ggml-rpc of the same llama.cpp beside the other backends"
        } else {
            "put GGML_RPC = \"ON\" under [env] in .cargo/config.toml and build again"
        },
    }
}

/// A device with the engine's handle for it.
pub(super) struct Row {
    pub(super) handle: ffi::ggml_backend_dev_t,
    name: String,
    description: String,
    backend: String,
    kind: ffi::moe_device_kind,
    /// Computes large batches of what is in CPU memory.
    offloads: bool,
    /// For a device of an RPC server.
    link: Option<Arc<Link>>,
}

impl Row {
    /// `None` for the CPU.
    fn kind(&self) -> Option<DeviceKind> {
        match self.kind {
            ffi::MOE_DEVICE_CPU => None,
            _ if self.backend == RPC => Some(DeviceKind::Remote),
            ffi::MOE_DEVICE_GPU => Some(DeviceKind::Gpu),
            ffi::MOE_DEVICE_INTEGRATED => Some(DeviceKind::IntegratedGpu),
            _ => Some(DeviceKind::Accelerator),
        }
    }

    /// The device with its memory; `None` if it does not answer.
    ///
    /// # Errors
    /// That of the limits.
    fn device(&self, limits: &Limits) -> Result<Option<Device>> {
        let mut info = ffi::moe_device_memory_info {
            free_bytes: 0,
            total_bytes: 0,
            alignment_bytes: 1,
            row_padding_elements: 0,
        };
        let is_remote = self.backend == RPC;
        let turn =
            if is_remote { RpcTurn::to_ask(limits, QUESTION_TIMEOUT)? } else { RpcTurn::default() };
        // SAFETY: the handle is the engine's own and lives as long as the process.
        let asked = guarded(|message| unsafe {
            ffi::moe_device_memory(self.handle, &raw mut info, message)
        });
        limits.check()?;
        let asked = asked.map_err(|failure| failure.reason);
        let asked = asked.and_then(|()| turn.check().map_err(|_| silence()));
        if let Err(reason) = asked {
            tracing::warn!(target: "llama.cpp", "{} does not answer: {reason}", self.name);
            return Ok(None);
        }
        // A server that was lost has no memory: what was just read is made up.
        if self.link.as_ref().is_some_and(|link| link.check().is_err()) {
            return Ok(None);
        }
        Ok(self.with_memory(&info))
    }

    fn with_memory(&self, info: &ffi::moe_device_memory_info) -> Option<Device> {
        // What an RPC server's device takes besides is the server's business.
        let mut device = Device::new(&self.name).of_backend(&self.backend);
        device.description.clone_from(&self.description);
        device.kind = self.kind()?;
        device.alignment_bytes = Some(info.alignment_bytes);
        device.row_padding_elements = Some(info.row_padding_elements).filter(|&n| n > 0);
        device.operation_offload = self.offloads;
        // Some devices report nothing at all.
        if info.total_bytes > 0 {
            device.free_bytes = Some(info.free_bytes);
            device.total_bytes = Some(info.total_bytes);
        }
        Some(device)
    }
}

fn rows() -> Result<Vec<Row>> {
    backend::init()?;
    let empty = || ffi::moe_device {
        handle: ptr::null_mut(),
        name: ptr::null(),
        description: ptr::null(),
        backend: ptr::null(),
        kind: ffi::MOE_DEVICE_CPU,
        offloads: false,
    };
    let _reading = locks::read_registry();
    let rows = table(empty, |rows, capacity, count, message| {
        // SAFETY: `table` gives as many rows as it says, and all lives during the call.
        unsafe { ffi::moe_devices(rows, capacity, count, message) }
    })
    .map_err(|failure| failure.into_error("list the devices"))?;
    let row = |row: ffi::moe_device| {
        // SAFETY: the engine keeps devices and their names as long as the process.
        let texts = unsafe { [copied(row.name), copied(row.description), copied(row.backend)] };
        let [name, description, backend] = texts;
        // The engine describes a server's devices by the endpoint that it was given.
        let link = if backend == RPC { rpc::link_at(&description) } else { None };
        let description = link.as_ref().map_or(description, |link| link.endpoint().to_owned());
        let (kind, offloads) = (row.kind, row.offloads);
        Row { handle: row.handle, name, description, backend, kind, offloads, link }
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The connections to the servers that these devices belong to, each once.
pub(super) fn links(names: &[&str]) -> Result<Vec<Arc<Link>>> {
    let mut links: Vec<Arc<Link>> = Vec::new();
    for row in rows()?.into_iter().filter(|row| names.contains(&row.name.as_str())) {
        if let Some(link) = row.link
            && !links.iter().any(|other| Arc::ptr_eq(other, &link))
        {
            links.push(link);
        }
    }
    Ok(links)
}

/// The engine's handles of the devices of these names, in this order.
pub(super) fn handles<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ffi::ggml_backend_dev_t>> {
    let rows = rows()?;
    names
        .into_iter()
        .map(|name| {
            rows.iter().find(|row| row.name == name).map(|row| row.handle).ok_or_else(|| {
                let devices = rows.iter().filter(|row| row.kind != ffi::MOE_DEVICE_CPU);
                let known = devices.map(|row| row.name.clone()).collect();
                Error::UnknownDevice { name: name.to_owned(), known }
            })
        })
        .collect()
}

/// Whether one of the devices of these names computes large batches of what is in CPU memory.
pub(super) fn any_offloads(names: &[&str]) -> Result<bool> {
    let is_named = |row: &Row| names.contains(&row.name.as_str());
    Ok(rows()?.iter().any(|row| row.offloads && is_named(row)))
}

/// The first device of these names that computes what is in CPU memory and can pin memory of ours for it.
pub(super) fn registering(names: &[&str]) -> Result<Option<ffi::ggml_backend_dev_t>> {
    for row in rows()?.iter().filter(|row| row.offloads && names.contains(&row.name.as_str())) {
        let mut registers = false;
        // SAFETY: devices live as long as the process; the answer is written during the call.
        guarded(|message| unsafe {
            ffi::moe_device_registers(row.handle, &raw mut registers, message)
        })
        .map_err(|failure| failure.into_error("ask a device whether it pins memory"))?;
        if registers {
            return Ok(Some(row.handle));
        }
    }
    Ok(None)
}

/// Backends that the engine adds to those of the devices, such as BLAS.
pub(super) fn accelerators() -> Result<usize> {
    Ok(rows()?.iter().filter(|row| row.kind == ffi::MOE_DEVICE_ACCELERATOR).count())
}

/// The buffer type of the device of this name, or of [`CPU`].
pub(super) fn buffer_type(name: &str) -> Result<ffi::ggml_backend_buffer_type_t> {
    let handle = if name == CPU { ptr::null_mut() } else { handles([name])?[0] };
    let mut buffer_type = ptr::null_mut();
    // SAFETY: the handle is null or the engine's own; the result is written during the call.
    guarded(|message| unsafe { ffi::moe_buffer_type(handle, &raw mut buffer_type, message) })
        .map_err(|failure| failure.into_error("find a device's memory"))?;
    Ok(buffer_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_cpus_are_refused_but_a_few() {
        for (cpus, threads) in [(1, 1), (1, 4), (2, 4), (8, 8), (512, 512)] {
            check_threads_on(cpus, threads).unwrap();
        }
        for (cpus, threads) in [(1, 5), (2, 64), (8, 9), (511, 512)] {
            let error = check_threads_on(cpus, threads).unwrap_err();
            let Error::TooManyThreads { threads: told, cpus: there } = error else {
                panic!("{error}")
            };
            assert_eq!((told, there), (threads, cpus));
        }
        for threads in [0, 513] {
            assert!(matches!(check_threads_on(8, threads), Err(Error::InvalidOption { .. })));
        }
    }

    #[test]
    fn servers_come_first_and_integrated_gpus_only_without_cards() {
        let row = |name: &str, backend: &str, kind| Row {
            handle: ptr::null_mut(),
            name: name.to_owned(),
            description: String::new(),
            backend: backend.to_owned(),
            kind,
            offloads: false,
            link: None,
        };
        let rows = [
            row("CUDA0", "CUDA", ffi::MOE_DEVICE_GPU),
            row("CUDA1", "CUDA", ffi::MOE_DEVICE_GPU),
            row("Vulkan0", "Vulkan", ffi::MOE_DEVICE_INTEGRATED),
            row("BLAS", "BLAS", ffi::MOE_DEVICE_ACCELERATOR),
            row("CPU", "CPU", ffi::MOE_DEVICE_CPU),
            row("RPC0", RPC, ffi::MOE_DEVICE_GPU),
        ];
        let names = |rows: &[Row]| -> Vec<String> {
            let rows: Vec<&Row> = rows.iter().collect();
            in_order(&rows).into_iter().map(|row| row.name.clone()).collect()
        };
        assert_eq!(names(&rows), ["RPC0", "CUDA0", "CUDA1"]);
        assert_eq!(names(&rows[2..]), ["RPC0", "Vulkan0"]);
        assert_eq!(names(&rows[3..5]), [""; 0]);
    }
}
