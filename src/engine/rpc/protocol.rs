//! As much of llama.cpp's RPC protocol as the relay must know: which requests are answered, by how
//! many bytes, and what answer does no harm when there is no server any more.
//!
//! A request is a command (1 byte), a length (8 bytes) and so many bytes; an answer a length and so
//! many bytes (`ggml-rpc.cpp`, protocol 7).

/// Bytes of a request before its payload.
pub(super) const HEADER_BYTES: usize = 9;
/// Capabilities of a connection that both sides may use, such as RDMA. The relay has none.
pub(super) const CAPABILITY_BYTES: usize = 24;

/// Bytes of the server's greeting: a length, a version and capabilities.
pub(super) const GREETING_BYTES: usize = 8 + 4 + CAPABILITY_BYTES;

/// A request's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command(pub(super) u8);

impl Command {
    pub(super) const ALLOC_BUFFER: Self = Self(0);
    const GET_ALIGNMENT: Self = Self(1);
    const GET_MAX_SIZE: Self = Self(2);
    const BUFFER_GET_BASE: Self = Self(3);
    pub(super) const FREE_BUFFER: Self = Self(4);
    const SET_TENSOR_HASH: Self = Self(7);
    pub(super) const GET_TENSOR: Self = Self(8);
    const COPY_TENSOR: Self = Self(9);
    pub(super) const GRAPH_COMPUTE: Self = Self(10);
    const GET_DEVICE_MEMORY: Self = Self(11);
    const GET_ALLOC_SIZE: Self = Self(13);
    pub(super) const HELLO: Self = Self(14);
    const DEVICE_COUNT: Self = Self(15);
    pub(super) const GRAPH_RECOMPUTE: Self = Self(16);

    /// How long the answer is; `None` if there is none.
    pub(super) fn answer_bytes(self, payload: &[u8]) -> Option<u64> {
        match self {
            Self::ALLOC_BUFFER | Self::GET_DEVICE_MEMORY => Some(16),
            Self::GET_ALIGNMENT
            | Self::GET_MAX_SIZE
            | Self::BUFFER_GET_BASE
            | Self::GET_ALLOC_SIZE => Some(8),
            Self::SET_TENSOR_HASH | Self::COPY_TENSOR => Some(1),
            Self::DEVICE_COUNT => Some(4),
            Self::HELLO => Some(4 + CAPABILITY_BYTES as u64),
            // The size asked for ends the request.
            Self::GET_TENSOR => {
                let size = payload.last_chunk::<8>().copied().unwrap_or_default();
                Some(u64::from_le_bytes(size))
            }
            _ => None,
        }
    }

    /// Whether the engine keeps what is answered for as long as it has the connection, or the server keeps what
    /// it was asked for: a made-up answer would do harm later.
    pub(super) fn is_lasting(self) -> bool {
        let lasting = [
            Self::ALLOC_BUFFER,
            Self::GET_ALIGNMENT,
            Self::GET_MAX_SIZE,
            Self::BUFFER_GET_BASE,
            Self::GET_ALLOC_SIZE,
            Self::HELLO,
            Self::DEVICE_COUNT,
        ];
        lasting.contains(&self)
    }

    /// Whether it is a graph to compute.
    pub(super) fn computes(self) -> bool {
        [Self::GRAPH_COMPUTE, Self::GRAPH_RECOMPUTE].contains(&self)
    }

    /// The beginning of an answer in the place of a server that is gone; the rest is zeros.
    pub(super) fn harmless_answer(self) -> [u8; 8] {
        let number: u64 = match self {
            Self::GET_ALIGNMENT => 128,
            Self::GET_MAX_SIZE => 1 << 40,
            // Not null: the engine asserts that.
            Self::BUFFER_GET_BASE => 1 << 12,
            // "I have that tensor already", so that it is not sent; "I copied it".
            Self::SET_TENSOR_HASH | Self::COPY_TENSOR => 1,
            // No memory, no devices, no buffer; and tensors of zeros.
            _ => 0,
        };
        number.to_le_bytes()
    }
}

/// The device that a graph is for.
pub(super) fn graph_device(payload: &[u8]) -> Option<u32> {
    payload.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
}
