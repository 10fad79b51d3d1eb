//! The rules by which transcripts are compared (`tests/transcripts.rs` replays them).

use std::path::Path;

use crate::replay::compare::{Names, same};
use crate::replay::masks::{Masks, Side};
use crate::replay::session::{Act, Match, Place, Transcript, typed};

#[test]
fn commands_have_what_follows_them_as_output() {
    let text = "\
@lab --nodes 1
@at k1
@generated ab12 [a-z0-9]{4}
$ k get po
NAME   READY
web-ab12   1/1

$ curl -sI 10.0.0.1
HTTP/1.1 200 OK

@waits NodePort
@on outside
@among
+ curl -s 10.0.0.2
hello
";
    let read = Transcript::parse("x", Path::new("x"), text).unwrap();
    assert_eq!(
        read.place,
        Place::Lab(vec!["--nodes".to_owned(), "1".to_owned()])
    );
    let [pods, curl, waiting] = &read.steps[..] else {
        panic!("{read:?}");
    };
    assert_eq!((pods.on.as_deref(), pods.line), (None, 4));
    assert_eq!(
        pods.act,
        Act::Shows {
            expected: "NAME   READY\nweb-ab12   1/1".to_owned(),
            match_of: Match::Rows
        }
    );
    assert_eq!(curl.on.as_deref(), Some("k1"));
    assert_eq!(curl.waits, None);
    assert_eq!(waiting.on.as_deref(), Some("outside"));
    assert_eq!(waiting.waits.as_deref(), Some("NodePort"));
    assert!(matches!(
        waiting.act,
        Act::Shows {
            match_of: Match::Among,
            ..
        }
    ));
}

#[test]
fn a_line_that_is_nothing_is_refused() {
    let error = Transcript::parse("x", Path::new("x"), "@lab\nhello\n").unwrap_err();
    assert!(error.starts_with("2: neither a command"), "{error}");
    let error = Transcript::parse("x", Path::new("x"), "@lab\n@flab\n").unwrap_err();
    assert!(error.starts_with("2: unknown directive"), "{error}");
}

#[test]
fn a_dialogue_is_typed_behind_its_prompts() {
    let expected = "[root@c /]# date\nnow\n[root@c /]#\n[root@c /]# pwd\n/\n[root@c /]#";
    assert_eq!(typed("[root@c /]# ", expected), ["date", "", "pwd"]);
}

fn masks() -> Masks {
    Masks::parse(
        "widths: {both: '(\\S)[ \\t]{2,}', as: '$1  ', why: x, always: true}\n\
         colon: {text: 'Created (\\S+)', as: 'Created: $1', why: x}\n\
         proxy: {text: kube-proxy, as: weft, why: x, commands: true}\n",
    )
    .unwrap()
}

#[test]
fn what_every_run_makes_up_is_not_compared() {
    let masks = masks();
    let shown = |text: &str| masks.apply(text, Side::Here, &[]);
    assert_eq!(
        shown("web   1/1   Running   0   3m50s   10.0.0.1   <none>"),
        shown("web   1/1   Running   0   24d   10.0.0.1   <none>")
    );
    assert_eq!(
        shown("  Warning  Unhealthy  4s (x6 over 29s)  kubelet  no"),
        shown("  Warning  Unhealthy  3s                kubelet  no")
    );
    assert_eq!(shown("Date: Thu, 21 Sep 2022 14:37:08 GMT\r"), "Date: TIME");
    assert_eq!(
        shown("  creationTimestamp: \"2022-09-21T14:26:13Z\"\n  resourceVersion: \"11697\""),
        "  creationTimestamp: \"TIME\"\n  resourceVersion: VERSION"
    );
    assert_eq!(
        shown("failed after 1006 ms: refused"),
        shown("failed after 0 ms: refused")
    );
    // An age is a word of its own, and a port is none.
    assert_eq!(shown("80:31195/TCP delay=5s"), "80:31195/TCP delay=5s");
    assert_eq!(shown("a 7s 8s b"), "a AGE AGE b");
    assert_eq!(shown("\x1b[1mServer\x1b[0m: x"), "Server: x");
}

#[test]
fn a_mask_holds_for_its_side_where_it_is_named() {
    let masks = masks();
    let named = ["colon".to_owned()];
    assert_eq!(masks.apply("Created c", Side::Text, &named), "Created: c");
    assert_eq!(masks.apply("Created c", Side::Here, &named), "Created c");
    assert_eq!(masks.apply("Created c", Side::Text, &[]), "Created c");
    let proxy = ["proxy".to_owned()];
    assert_eq!(
        masks.command("k delete po kube-proxy", &proxy),
        "k delete po weft"
    );
}

#[test]
fn a_mask_without_a_reason_is_refused() {
    let error = Masks::parse("x: {both: a, why: ' '}").unwrap_err();
    assert_eq!(error, "x: why?");
    assert!(Masks::parse("x: {both: a}").is_err());
    assert!(Masks::parse("x: {both: a, text: b, why: c}").is_err());
}

fn names() -> Names {
    let mut names = Names::new().unwrap();
    let suffix = "[a-z0-9]{5}";
    let declared = ["tmpl8", "z86bc"].map(|one| (one.to_owned(), suffix.to_owned()));
    names.declare(&declared).unwrap();
    names
}

#[test]
fn a_name_stands_for_one_thing_throughout() {
    let mut names = names();
    assert!(same("web-tmpl8 1", "web-abcde 1", Match::Lines, &mut names));
    assert!(same("web-tmpl8 2", "web-abcde 2", Match::Lines, &mut names));
    assert!(!same("web-tmpl8", "web-fghij", Match::Lines, &mut names));
    assert!(!same("web-z86bc", "web-abcde", Match::Lines, &mut names));
    assert!(same("web-z86bc", "web-fghij", Match::Lines, &mut names));
    assert_eq!(names.told("k exec web-tmpl8 -- x"), "k exec web-abcde -- x");
    let uid = |digit: &str| format!("uid: {}-0000-0000-0000-000000000000", digit.repeat(8));
    assert!(same(&uid("1"), &uid("a"), Match::Lines, &mut names));
    assert!(!same(&uid("1"), &uid("b"), Match::Lines, &mut names));
    assert!(!same(&uid("2"), &uid("a"), Match::Lines, &mut names));
}

#[test]
fn rows_come_in_any_order_and_all_of_them() {
    let expected = "NAME IP\nweb-tmpl8 14\nweb-z86bc 15";
    let found = "NAME IP\nweb-aaaaa 15\nweb-bbbbb 14";
    let mut names = names();
    assert!(!same(expected, found, Match::Lines, &mut names.clone()));
    assert!(same(expected, found, Match::Rows, &mut names));
    assert_eq!(names.told("tmpl8"), "bbbbb");
    let more = format!("{found}\nweb-ccccc 16");
    assert!(!same(expected, &more, Match::Rows, &mut names));
    assert!(same(expected, &more, Match::Among, &mut names));
    assert!(!same(&more, expected, Match::Among, &mut names));
}

#[test]
fn an_ellipsis_is_any_lines() {
    let mut names = names();
    for (found, holds) in [("x\ny\nend", true), ("end", true), ("x\nend\ny", false)] {
        assert_eq!(same("...\nend", found, Match::Lines, &mut names), holds);
    }
    assert!(same("a\n...", "a\nb", Match::Lines, &mut names));
    assert!(!same("a", "a\nb", Match::Lines, &mut names));
}
