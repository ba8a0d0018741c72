//! Tests of the messages.
#![forbid(unsafe_code)]

use super::*;

fn invalid(body: Value, read: impl FnOnce(&mut Fields<'_>)) -> Value {
    let mut wrong = Invalid::default();
    let mut fields = Fields::of(Some(body), &mut wrong).unwrap();
    read(&mut fields);
    fields.end();
    wrong.json()["detail"].clone()
}

#[test]
fn what_is_wrong_with_a_number_is_told_as_fastapi_does() {
    for (value, kind, msg) in [
        (json!("5"), "int_type", "Input should be a valid integer"),
        (json!(true), "int_type", "Input should be a valid integer"),
        (json!(null), "int_type", "Input should be a valid integer"),
        (
            json!(1.5),
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
        ),
        (json!(0), "greater_than", "Input should be greater than 0"),
        (json!(-3), "greater_than", "Input should be greater than 0"),
        (json!(u64::MAX), "less_than_equal", "Input should be less than or equal to 100"),
        (json!(1e300), "less_than_equal", "Input should be less than or equal to 100"),
    ] {
        let detail = invalid(json!({ "ttl": value }), |fields| _ = fields.positive("ttl", 100, None));
        assert_eq!(detail[0]["type"], kind, "{value}");
        assert_eq!(detail[0]["msg"], msg, "{value}");
        assert_eq!(detail[0]["loc"], json!(["body", "ttl"]));
        assert_eq!(detail[0]["input"], value);
    }
    let mut read = 0;
    assert_eq!(invalid(json!({ "ttl": 5.0 }), |fields| read = fields.positive("ttl", 100, None)), json!([]));
    assert_eq!(read, 5);
}

#[test]
fn missing_and_additional_fields_are_told_with_their_places() {
    let detail = invalid(json!({ "spec": { "gpu": 1 }, "x": 2 }), |fields| {
        fields.positive("ttl", 9, None);
        fields.within("spec", |spec| spec.number("cpus"));
    });
    let input = json!({ "spec": { "gpu": 1 }, "x": 2 });
    let missing =
        json!({ "type": "missing", "loc": ["body", "ttl"], "msg": "Field required", "input": input });
    let extra = |loc: Value, input: i32| {
        let msg = "Extra inputs are not permitted";
        json!({ "type": "extra_forbidden", "loc": loc, "msg": msg, "input": input })
    };
    assert_eq!(
        detail,
        json!([missing, extra(json!(["body", "spec", "gpu"]), 1), extra(json!(["body", "x"]), 2)])
    );
}

#[test]
fn wrong_types_are_told() {
    let body = json!({ "a": 1, "b": "x", "c": [], "d": "y", "e": 3 });
    let detail = invalid(body, |fields| {
        fields.text("a");
        fields.boolean("b", false);
        fields.dictionary("c");
        fields.number("d");
        fields.within("e", |_| ());
    });
    let kinds: Vec<&str> = detail.as_array().unwrap().iter().map(|w| w["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["string_type", "bool_type", "dict_type", "float_type", "model_attributes_type"]);
}

#[test]
fn a_body_that_is_no_object_has_no_fields() {
    for (body, kind) in [(Some(json!([1])), "model_attributes_type"), (None, "missing")] {
        let mut wrong = Invalid::default();
        assert!(Fields::of(body, &mut wrong).is_none());
        let json = wrong.json();
        assert_eq!((&json["detail"][0]["type"], &json["detail"][0]["loc"]), (&json!(kind), &json!(["body"])));
    }
}

#[test]
fn sessions_have_names_that_can_be_shown() {
    let mut headers = HeaderMap::new();
    let kind = |headers: &HeaderMap| {
        let mut wrong = Invalid::default();
        session(headers, &mut wrong);
        wrong.json()["detail"][0]["type"].as_str().map(str::to_owned)
    };
    assert_eq!(kind(&headers).as_deref(), Some("missing"));
    for (value, expected) in [
        (b"".to_vec(), Some("string_too_short")),
        (vec![b'a'; 257], Some("string_too_long")),
        (vec![0xff, 0xfe], Some("string_unicode")),
        (b"a\tb".to_vec(), Some("value_error")),
        (vec![b'a'; 256], None),
        ("sitzung-ü".as_bytes().to_vec(), None),
    ] {
        headers.insert(SESSION, axum::http::HeaderValue::from_bytes(&value).unwrap());
        assert_eq!(kind(&headers).as_deref(), expected, "{value:?}");
    }
}
