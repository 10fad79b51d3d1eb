//! Protobuf bodies as documents: typed Go clients and kubectl's `create` verbs send nothing
//! else.
//!
//! A document comes out as Go would write it as JSON: the zero of a field that is no pointer
//! is left out where JSON leaves it out. A field of a number that the table does not have is
//! newer than it, and is passed over, as kube-apiserver does.
//!
//! Source: "Kubernetes protobuf encoding" in the API concepts of Kubernetes'
//! documentation, and the protobuf wire format.

mod messages;
mod wire;
pub(crate) mod written;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::messages::{Field, Form, Shape, messages};
use self::wire::{Content, Wire};
use crate::base64;

/// What every body of `application/vnd.kubernetes.protobuf` begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages: as deep as a JSON document may be.
const DEPTH: usize = 128;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes are not protobuf, or end early.
    #[error("the body is not well-formed application/vnd.kubernetes.protobuf: {0}")]
    Malformed(&'static str),
    /// The kind is not one that is understood as protobuf.
    #[error("{api_version} {kind} is not understood as protobuf: send application/json")]
    Kind {
        /// `apiVersion` of the body.
        api_version: String,
        /// `kind` of the body.
        kind: String,
    },
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Reads a body of media type `application/vnd.kubernetes.protobuf` into the document it
/// stands for, `apiVersion` and `kind` set.
///
/// # Errors
/// When the bytes are malformed, or of a kind this crate has no field numbers for.
pub fn decode_protobuf(body: &[u8]) -> Result<Value> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or(ProtobufError::Malformed("it does not begin with k8s\\0"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Wire(envelope) {
        match field? {
            (1, Content::Bytes(meta)) => {
                for field in Wire(meta) {
                    match field? {
                        (1, Content::Bytes(text)) => api_version = string(text)?,
                        (2, Content::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Content::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(root) = messages().root(&api_version, &kind) else {
        return Err(ProtobufError::Kind { api_version, kind });
    };
    let mut document = message(raw, root, DEPTH)?;
    document.insert("apiVersion".to_owned(), api_version.into());
    document.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(document))
}

fn message(bytes: &[u8], name: &str, depth: usize) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    take_fields(&mut out, bytes, name, depth)?;
    Ok(out)
}

/// Reads the fields of a message into a document, which may be that of another message.
fn take_fields(out: &mut Map<String, Value>, bytes: &[u8], name: &str, depth: usize) -> Result<()> {
    let depth = depth
        .checked_sub(1)
        .ok_or(ProtobufError::Malformed("it is nested too deep"))?;
    for field in Wire(bytes) {
        let (number, content) = field?;
        match messages().field(name, number) {
            None => {}
            Some(field) if field.is_embedded() => {
                if let Form::Message(inner) = field.form {
                    take_fields(out, content.bytes()?, inner, depth)?;
                }
            }
            Some(field) => put(out, field, content, depth)?,
        }
    }
    Ok(())
}

fn put(
    out: &mut Map<String, Value>,
    field: &Field,
    content: Content<'_>,
    depth: usize,
) -> Result<()> {
    match field.shape {
        Shape::One => {
            let value = value(field.form, content, depth)?;
            if !value.is_null() && (field.may_be_zero || !is_zero(&value)) {
                out.insert(field.name.to_owned(), value);
            }
        }
        Shape::List => {
            let item = value(field.form, content, depth)?;
            let list = out.entry(field.name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(item);
            }
        }
        Shape::Map => {
            // A key or a value that is missing is the zero of its type.
            let (mut key, mut held) = (String::new(), Content::Bytes(&[]));
            for entry in Wire(content.bytes()?) {
                match entry? {
                    (1, Content::Bytes(text)) => key = string(text)?,
                    (2, content) => held = content,
                    _ => {}
                }
            }
            let held = value(field.form, held, depth)?;
            let map = out.entry(field.name).or_insert_with(|| json!({}));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, held);
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn value(form: Form, content: Content<'_>, depth: usize) -> Result<Value> {
    Ok(match form {
        Form::Bool => Value::Bool(content.number()? != 0),
        // Negative numbers of either size are written as 64 bits.
        Form::Int => json!(content.number()?.cast_signed()),
        Form::Double => double(content.bytes()?)?,
        Form::Text => string(content.bytes()?)?.into(),
        Form::Bytes => base64::encode(content.bytes()?).into(),
        Form::Time => time(content.bytes()?, "%Y-%m-%dT%H:%M:%SZ")?,
        Form::MicroTime => time(content.bytes()?, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
        Form::Quantity => match first(content)? {
            Some(Content::Bytes(text)) => string(text)?.into(),
            Some(Content::Number(_)) | None => json!("0"),
        },
        Form::IntOrText => int_or_text(content.bytes()?)?,
        Form::Raw => match first(content)? {
            Some(Content::Bytes(raw)) if !raw.is_empty() => serde_json::from_slice(raw)
                .map_err(|_| ProtobufError::Malformed("an embedded document is not JSON"))?,
            Some(_) | None => Value::Null,
        },
        Form::Texts => Wire(content.bytes()?)
            .map(|field| string(field?.1.bytes()?))
            .collect::<Result<Vec<String>>>()?
            .into(),
        Form::SchemaOrList | Form::SchemaOrBool | Form::SchemaOrTexts => {
            schema_or(form, content.bytes()?, depth)?
        }
        Form::Message(name) => Value::Object(message(content.bytes()?, name, depth)?),
    })
}

/// What stands in the first field of a message.
fn first(content: Content<'_>) -> Result<Option<Content<'_>>> {
    let first =
        Wire(content.bytes()?).find(|field| !matches!(field, Ok((number, _)) if *number != 1));
    Ok(first.transpose()?.map(|(_, content)| content))
}

fn double(bytes: &[u8]) -> Result<Value> {
    let bytes = bytes
        .try_into()
        .map_err(|_| ProtobufError::Malformed("a field is not of its type"))?;
    let number = f64::from_le_bytes(bytes);
    // Go writes what is whole without a fraction.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "only what is exactly an integer of this size"
    )]
    let whole = (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    Ok(whole.map_or_else(|| json!(number), |whole| json!(whole)))
}

/// The unions of a JSON schema: a schema, or something simpler.
fn schema_or(form: Form, bytes: &[u8], depth: usize) -> Result<Value> {
    const SCHEMA: &str = "apiextensions/v1.JSONSchemaProps";
    let (mut schema, mut allows, mut list) = (None, false, Vec::<Value>::new());
    let is_bool = form == Form::SchemaOrBool;
    for field in Wire(bytes) {
        match field? {
            (1, Content::Number(number)) if is_bool => allows = number != 0,
            (2, Content::Bytes(bytes)) if is_bool => schema = Some(message(bytes, SCHEMA, depth)?),
            (1, Content::Bytes(bytes)) => schema = Some(message(bytes, SCHEMA, depth)?),
            (2, Content::Bytes(bytes)) if form == Form::SchemaOrTexts => {
                list.push(string(bytes)?.into());
            }
            (2, Content::Bytes(bytes)) => list.push(message(bytes, SCHEMA, depth)?.into()),
            _ => {}
        }
    }
    Ok(match schema {
        Some(schema) => schema.into(),
        None if is_bool => allows.into(),
        None => list.into(),
    })
}

/// `Time` and `MicroTime`: seconds and nanoseconds since 1970; empty is unset.
fn time(bytes: &[u8], format: &str) -> Result<Value> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Wire(bytes) {
        match field? {
            (1, Content::Number(number)) => seconds = Some(number.cast_signed()),
            (2, Content::Number(number)) => nanos = i32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    Timestamp::new(seconds, nanos)
        .map(|time| time.strftime(format).to_string().into())
        .map_err(|_| ProtobufError::Malformed("a time is out of range"))
}

/// `IntOrString`: a type (0 number, 1 text), a number, a text.
fn int_or_text(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Wire(bytes) {
        match field? {
            (1, Content::Number(kind)) => is_text = kind == 1,
            (2, Content::Number(value)) => number = value.cast_signed(),
            (3, Content::Bytes(value)) => text = string(value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn string(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_namespace_as_kubectl_sends_it() {
        // Name, and the zeros Go writes: an empty time, spec and status.
        let metadata = [
            bytes(1, b"foo"),
            bytes(2, b""),
            bytes(8, b""),
            vec![7 << 3, 0],
        ]
        .concat();
        let raw = [bytes(1, &metadata), bytes(2, b""), bytes(3, &bytes(1, b""))].concat();
        assert_eq!(
            decode_protobuf(&body("v1", "Namespace", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}})
        );
    }

    /// What kubectl 1.32 sends for
    /// `create deployment d --image=nginx --port=80 --replicas=0 -- sleep 1`.
    #[test]
    fn a_deployment_as_kubectl_sends_it() {
        let recorded = "\
            6b3873000a150a07617070732f7631120a4465706c6f796d656e7412ba010a1b0a016412001a0022002a0032 \
            00380042005a080a03617070120164128c010800120a0a080a036170701201641a740a1a0a0012001a002200 \
            2a003200380042005a080a03617070120164125612380a056e67696e7812056e67696e781a05736c6565701a \
            01312a00320a0a001000185022002a0042006a007200800100880100900100a201001a00320042004a005200 \
            5800600068008201008a01009a0100c2010022020a00280038001a0c0800100018002000280038001a002200";
        let digits: Vec<u8> = recorded.bytes().filter(|byte| *byte != b' ').collect();
        let body: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(
            decode_protobuf(&body).unwrap(),
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"labels": {"app": "d"}, "name": "d"},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}},
                    "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
                        {"command": ["sleep", "1"], "image": "nginx", "name": "nginx",
                            "ports": [{"containerPort": 80}]}]}}}})
        );
    }

    #[test]
    fn lists_maps_numbers_and_texts() {
        let entry = [bytes(1, b"app"), bytes(2, b"web")].concat();
        let target = [vec![1 << 3, 1], bytes(3, b"http")].concat();
        let port = [vec![3 << 3, 80], bytes(4, &target), vec![5 << 3, 0]].concat();
        let spec = [bytes(1, &port), bytes(2, &entry), bytes(4, b"ClusterIP")].concat();
        let document = decode_protobuf(&body("v1", "Service", &bytes(2, &spec))).unwrap();
        assert_eq!(
            document["spec"],
            json!({"ports": [{"port": 80, "targetPort": "http"}],
                "selector": {"app": "web"}, "type": "ClusterIP"})
        );
        let secret = bytes(2, &[bytes(1, b"k"), bytes(2, b"hi!")].concat());
        let document = decode_protobuf(&body("v1", "Secret", &secret)).unwrap();
        assert_eq!(document["data"], json!({"k": "aGkh"}));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(
            decode_protobuf(&body("v1", "Unheard", b""))
                .unwrap_err()
                .to_string(),
            "v1 Unheard is not understood as protobuf: send application/json"
        );
        assert_eq!(
            decode_protobuf(b"{}"),
            Err(ProtobufError::Malformed("it does not begin with k8s\\0"))
        );
        assert_eq!(
            decode_protobuf(b"k8s\0\x0a\xff"),
            Err(ProtobufError::Malformed("it ends early"))
        );
    }

    #[test]
    fn what_is_newer_than_the_table_is_passed_over() {
        let metadata = [bytes(1, b"foo"), bytes(15, b"later")].concat();
        let raw = [bytes(1, &metadata), bytes(14, b"later")].concat();
        assert_eq!(
            decode_protobuf(&body("v1", "Namespace", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}})
        );
    }

    #[test]
    fn times_are_as_exact_as_their_type() {
        // LeaseSpec.renewTime is a MicroTime, ObjectMeta.creationTimestamp a Time.
        let time = [vec![1 << 3, 5, 2 << 3], vec![0xc0, 0x84, 0x3d]].concat();
        let raw = [bytes(1, &bytes(8, &time)), bytes(2, &bytes(4, &time))].concat();
        let document = decode_protobuf(&body("coordination.k8s.io/v1", "Lease", &raw)).unwrap();
        assert_eq!(
            document["metadata"],
            json!({"creationTimestamp": "1970-01-01T00:00:05Z"})
        );
        assert_eq!(
            document["spec"],
            json!({"renewTime": "1970-01-01T00:00:05.001000Z"})
        );
    }

    #[test]
    fn embedded_messages_and_schemas() {
        // A Probe's handler, a Volume's source; zero of a pointer, and of no pointer.
        let probe = [
            bytes(1, &bytes(3, &bytes(2, b"host"))),
            vec![2 << 3, 0],
            vec![7 << 3, 0],
        ];
        let container = [bytes(1, b"c"), vec![11 << 3 | 2, 14], probe.concat()].concat();
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
        let spec = [bytes(1, &volume), bytes(2, &container)].concat();
        let document = decode_protobuf(&body("v1", "Pod", &bytes(2, &spec))).unwrap();
        assert_eq!(
            document["spec"],
            json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c",
                "readinessProbe": {"tcpSocket": {"host": "host"},
                    "terminationGracePeriodSeconds": 0}}]})
        );

        let maximum = [vec![9 << 3 | 1], 5.0_f64.to_le_bytes().to_vec()].concat();
        // Fields 24 and 30, whose tags take two bytes.
        let text = bytes(1, &bytes(5, b"string"));
        let items = [vec![0xc2, 1, u8::try_from(text.len()).unwrap()], text].concat();
        let open = vec![0xf2, 1, 2, 1 << 3, 1];
        let raw = [maximum, items, open, bytes(8, &bytes(1, b"[2]"))].concat();
        assert_eq!(
            message(&raw, "apiextensions/v1.JSONSchemaProps", DEPTH).unwrap(),
            *json!({"maximum": 5, "items": {"type": "string"}, "additionalProperties": true,
                "default": [2]})
            .as_object()
            .unwrap()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_protobuf(&[MAGIC, &tail].concat());
            let _ = decode_protobuf(&body("apps/v1", "Deployment", &tail[..tail.len().min(100)]));
        }
    }
}
