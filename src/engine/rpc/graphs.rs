//! The graphs that a server was told to compute.

use std::collections::HashMap;

use super::protocol::{Command, graph_device};

/// The last graph of each device.
///
/// The engine asks a server to compute the last graph again without sending it. But the server
/// drops it whenever any buffer is freed, does not say so, and hangs up when it is asked for it. So
/// after a buffer was freed the graph is sent anew.
#[derive(Default)]
pub(super) struct Graphs {
    sent: HashMap<u32, Graph>,
}

struct Graph {
    payload: Vec<u8>,
    is_dropped: bool,
}

/// What a request becomes.
pub(super) enum Sent {
    AsItIs(Vec<u8>),
    /// A graph in the place of the request to compute it again.
    Anew(Vec<u8>),
}

impl Graphs {
    /// What to send for a request.
    pub(super) fn instead(&mut self, command: Command, payload: Vec<u8>) -> Sent {
        match command {
            Command::FREE_BUFFER => {
                for graph in self.sent.values_mut() {
                    graph.is_dropped = true;
                }
            }
            Command::GRAPH_COMPUTE => {
                if let Some(device) = graph_device(&payload) {
                    let graph = Graph { payload: payload.clone(), is_dropped: false };
                    self.sent.insert(device, graph);
                }
            }
            Command::GRAPH_RECOMPUTE => {
                let graph = graph_device(&payload).and_then(|device| self.sent.get_mut(&device));
                if let Some(graph) = graph.filter(|graph| graph.is_dropped) {
                    graph.is_dropped = false;
                    return Sent::Anew(graph.payload.clone());
                }
            }
            _ => {}
        }
        Sent::AsItIs(payload)
    }

    /// Notes a graph that is not sent: should it be asked for again, the server does not know it.
    pub(super) fn put_off(&mut self, payload: Vec<u8>) {
        if let Some(device) = graph_device(&payload) {
            self.sent.insert(device, Graph { payload, is_dropped: true });
        }
    }
}
