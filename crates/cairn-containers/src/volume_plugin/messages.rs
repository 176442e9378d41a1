//! The messages of Docker's volume plug-in protocol, version 1: JSON with capital first letters. Fields that are not
//! known are ignored, `null` is an empty value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The media type that engines send and expect.
pub(super) const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// The body of every request; which fields matter depends on the request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) opts: Option<BTreeMap<String, String>>,
    /// Who mounts; the engine chooses it.
    #[serde(rename = "ID")]
    pub(super) id: String,
}

/// A volume as engines list it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Volume {
    pub(super) name: String,
    /// Empty while it is not mounted.
    pub(super) mountpoint: String,
    /// As RFC 3339 writes it.
    pub(super) created_at: String,
    pub(super) status: BTreeMap<&'static str, serde_json::Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capabilities {
    /// `local`, or `global` where every host sees the same volumes.
    pub(super) scope: &'static str,
}

/// An answer; it is written as an object of one field, or none.
#[derive(Debug, Serialize)]
pub(super) enum Answer {
    Implements(Vec<&'static str>),
    Mountpoint(String),
    Volume(Volume),
    Volumes(Vec<Volume>),
    Capabilities(Capabilities),
    /// Written as the empty error that older engines look for.
    #[serde(rename = "Err")]
    Done(&'static str),
}

impl Answer {
    pub(super) const DONE: Answer = Answer::Done("");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_look_as_the_protocol_has_them() {
        let call: Call = serde_json::from_str(r#"{"Name":"models","Opts":{"size":"1GiB"},"ID":"b87d7442","More":[1]}"#)
            .expect("read");
        assert_eq!((call.name.as_str(), call.id.as_str()), ("models", "b87d7442"));
        assert_eq!(call.opts.expect("options")["size"], "1GiB");
        let call: Call = serde_json::from_str(r#"{"Name":"models","Opts":null}"#).expect("read");
        assert!(call.opts.is_none());
        let text = |answer: Answer| serde_json::to_string(&answer).expect("written");
        assert_eq!(text(Answer::DONE), r#"{"Err":""}"#);
        assert_eq!(text(Answer::Implements(vec!["VolumeDriver"])), r#"{"Implements":["VolumeDriver"]}"#);
        assert_eq!(text(Answer::Mountpoint("/a".into())), r#"{"Mountpoint":"/a"}"#);
        assert_eq!(
            text(Answer::Capabilities(Capabilities { scope: "local" })),
            r#"{"Capabilities":{"Scope":"local"}}"#
        );
    }
}
