use super::*;
use crate::{ca::bootstrap, data_dir::DataDir};
use jiff::Timestamp;

const HAS: u64 = 5;

fn cas() -> Vec<CaCertificate> {
    let make = |_| {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(temp.path()).unwrap();
        let authority = bootstrap::open(&data, Timestamp::now()).unwrap();
        authority.root().clone()
    };
    (0..3).map(make).collect()
}

/// Those of which the bit is set.
fn some(cas: &[CaCertificate], bits: usize) -> Vec<CaCertificate> {
    let chosen = cas.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
    chosen.map(|(_, ca)| ca.clone()).collect()
}

fn bundle(cas: &[CaCertificate], bits: usize, revision: u64) -> Option<Bundle> {
    let binding = Binding {
        cluster: "prod".into(),
        uid: "5a1d".into(),
    };
    Bundle::new(binding, revision, some(cas, bits)).ok()
}

fn holds(content: &Content, ca: &CaCertificate) -> bool {
    content.certificates().any(|one| one.der() == ca.der())
}

/// Every state of a file of three CAs, every bundle and every set of included CAs.
#[test]
fn a_ca_leaves_the_file_only_when_a_newer_bundle_has_it_no_more() {
    let cas = cas();
    let sets = 0..1 << cas.len();
    let (mut taken, mut refused) = (0, 0);
    for (has, others) in sets
        .clone()
        .flat_map(|has| sets.clone().map(move |others| (has, others)))
    {
        let before = Content {
            published: bundle(&cas, has, HAS),
            others: some(&cas, others),
        };
        let existing = if has | others == 0 {
            Existing::Missing
        } else {
            Existing::Content(before.clone())
        };
        for (new, included) in sets
            .clone()
            .flat_map(|new| sets.clone().map(move |included| (new, included)))
        {
            for revision in [HAS - 1, HAS, HAS + 1] {
                let published = bundle(&cas, new, revision);
                let included = some(&cas, included);
                let Ok(plan) = plan(&existing, published.as_ref(), &included) else {
                    refused += 1;
                    continue;
                };
                taken += 1;
                let after = &plan.content;
                assert!(after.certificates().count() > 0);
                for ca in before.certificates().filter(|ca| !holds(after, ca)) {
                    let was_published = before.published.as_ref().is_some_and(|bundle| {
                        bundle
                            .certificates()
                            .iter()
                            .any(|one| one.der() == ca.der())
                    });
                    assert!(was_published && published.is_some() && revision > HAS);
                    assert!(plan.removed.iter().any(|one| one.der() == ca.der()));
                }
                let named = published
                    .iter()
                    .flat_map(Bundle::certificates)
                    .chain(&included);
                assert!(named.into_iter().all(|ca| holds(after, ca)));
                // Nothing is in it twice, and another look changes nothing.
                assert_eq!(
                    fingerprints(after.certificates()).len(),
                    after.certificates().count()
                );
                let again = super::plan(
                    &Existing::Content(after.clone()),
                    published.as_ref(),
                    &included,
                );
                assert!(!again.unwrap().changed);
            }
        }
    }
    assert!(taken > 2000 && refused > 1000, "{taken} {refused}");
}

#[test]
fn an_older_or_another_clusters_bundle_and_another_of_the_same_revision_are_refused() {
    let cas = cas();
    let before = Content {
        published: bundle(&cas, 0b11, HAS),
        others: Vec::new(),
    };
    let existing = Existing::Content(before);
    let refusal = |published: Option<Bundle>| plan(&existing, published.as_ref(), &[]).unwrap_err();
    assert_eq!(
        refusal(bundle(&cas, 0b111, HAS - 1)),
        Refusal::Older {
            found: HAS - 1,
            has: HAS
        }
    );
    assert_eq!(
        refusal(bundle(&cas, 0b111, HAS)),
        Refusal::Differs { revision: HAS }
    );
    for (cluster, uid) in [("test", "5a1d"), ("prod", "0000")] {
        let binding = Binding {
            cluster: cluster.into(),
            uid: uid.into(),
        };
        let other = Bundle::new(binding, HAS + 1, some(&cas, 0b11)).unwrap();
        assert!(matches!(refusal(Some(other)), Refusal::OtherCluster { .. }));
    }
    let older = bundle(&cas, 0b1, HAS - 1);
    let plan = overwrite(&existing, older.as_ref(), &[]).unwrap();
    assert_eq!(plan.removed.len(), 1);
}

#[test]
fn what_is_no_bundle_is_not_written_over_and_nothing_is_no_plan() {
    let cas = cas();
    let published = bundle(&cas, 1, HAS);
    let error = plan(&Existing::Other, published.as_ref(), &[]).unwrap_err();
    assert_eq!(error, Refusal::NotABundle);
    assert!(overwrite(&Existing::Other, published.as_ref(), &[]).is_ok());
    for existing in [Existing::Missing, Existing::Damaged] {
        assert_eq!(plan(&existing, None, &[]).unwrap_err(), Refusal::Nothing);
        assert_eq!(
            overwrite(&existing, None, &[]).unwrap_err(),
            Refusal::Nothing
        );
        assert!(plan(&existing, published.as_ref(), &[]).unwrap().changed);
    }
}

#[test]
fn two_that_include_different_cas_agree_on_one_file() {
    let cas = cas();
    let published = bundle(&cas, 1, HAS);
    let look = |existing: &Existing, included: usize| {
        let plan = plan(existing, published.as_ref(), &some(&cas, included)).unwrap();
        (plan.changed, Existing::Content(plan.content))
    };
    let (_, file) = look(&Existing::Missing, 0b10);
    let (changed, file) = look(&file, 0b100);
    assert!(changed);
    for included in [0b10, 0b100, 0b10, 0b110] {
        assert!(!look(&file, included).0);
    }
}
