//! What Runpod's two REST faces share: parameters of a query, bodies, answers, and the way from an error to an answer.
//!
//! Their shapes, statuses and error forms are their own: a face says the last two as a [`RestFace`].

use std::marker::PhantomData;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::{DeserializeOwned, value};
use serde::de::{Deserializer, Error as _, IgnoredAny, Visitor};
use serde_json::Value;

use super::input::split;
use crate::service::{Service, ServiceError};

/// How a face's clients are told that something is wrong.
pub(super) trait RestFace {
    fn service_error(error: &ServiceError) -> Response;

    fn body_error(error: BodyError) -> Response;
}

/// Why a request is refused, as `F` puts it.
pub(super) struct Refused<F>(Reason, PhantomData<F>);

enum Reason {
    Service(ServiceError),
    Body(BodyError),
}

impl<F> From<ServiceError> for Refused<F> {
    fn from(error: ServiceError) -> Self {
        Refused(Reason::Service(error), PhantomData)
    }
}

impl<F> From<BodyError> for Refused<F> {
    fn from(error: BodyError) -> Self {
        Refused(Reason::Body(error), PhantomData)
    }
}

impl<F: RestFace> IntoResponse for Refused<F> {
    fn into_response(self) -> Response {
        match self.0 {
            Reason::Service(error) => F::service_error(&error),
            Reason::Body(error) => F::body_error(error),
        }
    }
}

pub(super) fn ok(body: impl Serialize) -> Response {
    Json(body).into_response()
}

pub(super) fn created(body: impl Serialize) -> Response {
    (StatusCode::CREATED, Json(body)).into_response()
}

pub(super) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A query's parameters.
#[derive(Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter; a list may also be one value with commas.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(known, _)| known == name);
        values.flat_map(|(_, value)| split(value)).collect()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.one(name) == Some("true")
    }

    /// What `read` makes of a parameter, if the parameter is there; `refused` if `read` makes nothing of it.
    pub(super) fn read<T, E>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Option<T>,
        refused: impl FnOnce() -> E,
    ) -> Result<Option<T>, E> {
        self.one(name).map(|text| read(text).ok_or_else(refused)).transpose()
    }
}

impl FromRequestParts<Arc<Service>> for Parameters {
    type Rejection = QueryRejection;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, QueryRejection> {
        Query::from_request_parts(parts, service).await.map(|Query(parameters)| Parameters(parameters))
    }
}

/// A field that the API has and that decides nothing here: any value will do.
pub(super) type Unread = Option<IgnoredAny>;

/// Why a body cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// No JSON, or no object.
    Malformed(String),
    /// Keys that the API does not have.
    UnknownKeys(Vec<String>),
    /// A field is missing, or is of the wrong kind.
    Shape(String),
}

/// Reads a body that is an object with no other keys than the fields of `T`.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    body_without(bytes, &[])
}

/// Like [`body`], for a request that does not take all of `T`'s fields: `without` are those that it refuses.
pub(super) fn body_without<T: DeserializeOwned>(bytes: &[u8], without: &[&str]) -> Result<T, BodyError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| BodyError::Malformed(format!("the request's body is not JSON: {error}")))?;
    let Value::Object(object) = &value else {
        return Err(BodyError::Malformed("the request's body is not a JSON object".to_owned()));
    };
    let fields = fields_of::<T>();
    debug_assert!(without.iter().all(|key| fields.contains(key)), "{without:?} are not all among {fields:?}");
    let known = |key: &str| fields.contains(&key) && !without.contains(&key);
    let unknown: Vec<String> =
        object.keys().filter(|key| !known(key)).map(|key| key.chars().take(64).collect()).collect();
    if !unknown.is_empty() {
        return Err(BodyError::UnknownKeys(unknown));
    }
    serde_json::from_value(value).map_err(|error| BodyError::Shape(error.to_string()))
}

/// The names under which a struct's fields are read. `T` is a struct without flattened fields.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Always an error: the fields are noted before there is a value.
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

/// Notes which fields a struct asks for, and has no value for it.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, value::Error> {
        *self.0 = fields;
        Err(value::Error::custom("only the names of fields are asked for"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, value::Error> {
        Err(value::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wanted {
        size: u64,
        data_center: Option<String>,
        #[serde(rename = "minRAM")]
        _min_ram: Unread,
        _registry: Unread,
    }

    #[test]
    fn bodies_are_objects_with_known_keys() {
        let read = |text: &str| body::<Wanted>(text.as_bytes());
        let five = Wanted { size: 5, data_center: None, _min_ram: None, _registry: None };
        assert_eq!(read(r#"{"size":5}"#), Ok(five));
        assert!(matches!(read(r#"{"size":5,"x":1}"#), Err(BodyError::UnknownKeys(keys)) if keys == ["x"]));
        assert!(matches!(read(r#"{"x":1}"#), Err(BodyError::UnknownKeys(_))), "unknown keys come before missing ones");
        assert!(matches!(read("[1]"), Err(BodyError::Malformed(_))));
        assert!(matches!(read("{"), Err(BodyError::Malformed(_))));
        assert!(matches!(read(r#"{"size":"5"}"#), Err(BodyError::Shape(_))));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(read(&deep), Err(BodyError::Malformed(_))));
    }

    #[test]
    fn known_keys_are_the_fields_as_they_are_written() {
        assert_eq!(fields_of::<Wanted>(), ["size", "dataCenter", "minRAM", "registry"]);
        let text = br#"{"size":5,"dataCenter":"a","minRAM":[1],"registry":null}"#;
        assert!(body::<Wanted>(text).is_ok(), "what is not read may be anything");
        let refused = body_without::<Wanted>(text, &["dataCenter"]);
        assert!(matches!(refused, Err(BodyError::UnknownKeys(keys)) if keys == ["dataCenter"]));
    }

    #[test]
    fn parameters_are_read_by_name() {
        let pairs = [("a", "1, 2"), ("a", "3"), ("b", "true")];
        let parameters = Parameters(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(
            (parameters.one("a"), parameters.all("a")),
            (Some("1, 2"), vec!["1".into(), "2".into(), "3".into()])
        );
        assert!(parameters.flag("b") && !parameters.flag("a") && !parameters.flag("c"));
        let number = |name| parameters.read(name, |text| text.parse::<u32>().ok(), || "no number");
        assert_eq!((number("c"), number("b")), (Ok(None), Err("no number")));
    }
}
