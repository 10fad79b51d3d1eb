//! How fast a pod may send and receive.

/// The limits of one link of a pod; a direction without one is as fast as it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodBandwidth {
    /// What the pod receives.
    pub to_pod: Option<Shape>,
    /// What the pod sends.
    pub from_pod: Option<Shape>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may pass at once after a pause.
    pub burst: u32,
}
