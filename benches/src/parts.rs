//! The parts of the hot path, each with the inputs that it meets: one list, which `counts` runs under callgrind and
//! criterion by the clock. A part does one operation a round, on buffers that are used again and again, as on a connection.

mod bodies;
mod dynos;
mod fields;
mod h2;
mod heads;
mod log_lines;
mod lookups;
mod pipe;

/// Does one operation.
pub type Round = Box<dyn FnMut()>;

/// A part of the hot path.
pub struct Part {
    /// `GROUP/WHAT`.
    pub name: String,
    /// What one operation reads, where speed is a matter of length.
    pub bytes: Option<usize>,
    start: Box<dyn Fn() -> Round>,
}

impl Part {
    fn new<R: FnMut() + 'static>(name: impl Into<String>, start: impl Fn() -> R + 'static) -> Self {
        Self {
            name: name.into(),
            bytes: None,
            start: Box::new(move || Box::new(start())),
        }
    }

    fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Makes what it needs, which may take long.
    pub fn start(&self) -> Round {
        (self.start)()
    }
}

/// All of them, in the order in which a request meets them.
pub fn all() -> Vec<Part> {
    [
        heads::requests(),
        h2::requests(),
        lookups::all(),
        dynos::all(),
        fields::all(),
        heads::responses(),
        h2::responses(),
        bodies::all(),
        log_lines::all(),
        pipe::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A value that lives as long as the process, so that rounds can borrow from it.
fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_part_has_a_name_of_its_own_and_runs() {
        let mut names = BTreeSet::new();
        for part in all() {
            assert!(names.insert(part.name.clone()), "{} twice", part.name);
            // A large table takes long to build without optimisation, and differs in nothing else.
            if !part.name.ends_with("/100000-apps") {
                let mut round = part.start();
                round();
                round();
            }
        }
    }
}
