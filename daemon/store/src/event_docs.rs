//! All kinds of events with their meaning and advice, for the reference.

use crate::EventKind;

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::SkippedStep,
        Self::RollBack,
        Self::LossSpike,
        Self::LossStuck,
        Self::DataWait,
        Self::LogitScale,
        Self::CheckpointFailed,
        Self::StoreFailed,
        Self::Stall,
        Self::Overfitting,
    ];

    /// Returns what happened.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::SkippedStep => {
                "The loss or the gradient of a step was not finite, so the step changed no \
                 weights"
            }
            Self::RollBack => {
                "Too many steps in a row were skipped, so the run went back to an older \
                 checkpoint"
            }
            Self::LossSpike => "The loss rose far above its recent values",
            Self::LossStuck => "The loss stays where a model that has learned nothing has it",
            Self::DataWait => "Steps spend too much of their time waiting for data",
            Self::LogitScale => "The logit scale stays at its upper limit",
            Self::CheckpointFailed => {
                "A checkpoint could not be written. Training goes on without it"
            }
            Self::StoreFailed => {
                "The state folder's disk could not be written for a while. Records were kept in \
                 memory"
            }
            Self::Stall => "No step ended for longer than guard.stall_minutes",
            Self::Overfitting => "The training loss falls while the loss of held-out pairs rises",
        }
    }

    /// Returns what the user can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::SkippedStep => {
                "Nothing after a single one. If it repeats, look at the pairs in event_pairs, and \
                 lower optimizer.lr or set optimizer.clip_grad_norm"
            }
            Self::RollBack => "Lower optimizer.lr or raise the warmup if it happens again",
            Self::LossSpike => {
                "Nothing if the loss comes back. Otherwise lower optimizer.beta2 or set \
                 optimizer.clip_grad_norm; event_pairs has the batch"
            }
            Self::LossStuck => {
                "Check that captions belong to their images, and try another optimizer.lr"
            }
            Self::DataWait => {
                "Raise loader threads, keep images smaller, or move the dataset to a faster disk. \
                 `diptych bench loader` measures it"
            }
            Self::LogitScale => {
                "Nothing on small or easy data. Otherwise look for duplicate captions"
            }
            Self::CheckpointFailed => "Free space on the disk of the state folder",
            Self::StoreFailed => {
                "Free space on the disk of the state folder, or look at its health"
            }
            Self::Stall => {
                "Look at what the message says it waits for: a disk, a network, a device"
            }
            Self::Overfitting => {
                "Stop, and take the best checkpoint (RUN@best). More data, augmentation or weight \
                 decay help the next run"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_once_under_its_serialized_name() {
        let error = serde_json::from_value::<EventKind>("boredom".into()).unwrap_err().to_string();
        let known: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(EventKind::ALL.map(EventKind::as_str).to_vec(), known, "{error}");
    }
}
