//! A record for the journal, with its fields in its text as well.
//!
//! The journal keeps fields beside the text, and `journalctl` and `systemctl status` show the text alone: a reader would see
//! "blocked" and not which interface. What goes on has all fields as they were, and for its message the line that standard error would get.

use super::line::OneLine;
use std::fmt::Debug;
use tracing::field::{Field, Value, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::{Context, Layer};

/// Hands whole lines to the layer inside. Records have no spans here.
pub(super) struct Whole<L>(pub(super) L);

/// The value of each field that a record has, by the field's place.
struct Texts(Vec<Option<String>>);

impl<S: Subscriber, L: Layer<S>> Layer<S> for Whole<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let fields = event.metadata().fields();
        let mut texts = Texts(vec![None; fields.len()]);
        event.record(&mut texts);
        let mut line = String::new();
        // A text takes whatever is written to it.
        let _ = OneLine.format_fields(Writer::new(&mut line), event);
        if let Some(message) = fields.field("message") {
            texts.0[message.index()] = Some(line);
        }
        let values: Vec<_> =
            texts.0.iter().map(|text| text.as_ref().map(|text| text as &dyn Value)).collect();
        self.0.on_event(&Event::new(event.metadata(), &fields.value_set_all(&values)), context);
    }
}

impl Visit for Texts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0[field.index()] = Some(value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0[field.index()] = Some(format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    /// In the place of the journal: the fields of the last record.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<BTreeMap<&'static str, String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().clear();
            event.record(&mut self.clone());
        }
    }

    impl Visit for Kept {
        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.lock().unwrap().insert(field.name(), value.to_owned());
        }

        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.record_str(field, &format!("{value:?}"));
        }
    }

    #[test]
    fn the_text_has_all_fields_and_the_fields_stay() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(Whole(kept.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(interface = "vnet0", reason = %"no\nfilter", frames = 7, "blocked: nothing passes");
        });
        let wanted = [
            ("frames", "7"),
            ("interface", "vnet0"),
            ("message", r#"blocked: nothing passes interface="vnet0" reason=no\nfilter frames=7"#),
            ("reason", "no\nfilter"),
        ];
        assert_eq!(*kept.0.lock().unwrap(), wanted.map(|(name, value)| (name, value.to_owned())).into());
    }
}
