//! Real agents in two zones, with prices: what a plan says a pull will cost is what the node accounts for it.

use emberline_agent::api::{Cost, Plan, PlanRequest};
use emberline_tests::{cluster::Cluster, site::Site};

const PRICES: [(&str, &str); 3] = [
    ("EMBERLINE_PRICES__ORIGIN_PER_GIB", "0.09"),
    ("EMBERLINE_PRICES__CROSS_ZONE_PER_GIB", "0.01"),
    ("EMBERLINE_PRICES__CURRENCY", "EUR"),
];
const GIB: f64 = (1u64 << 30) as f64;

async fn cost(cluster: &Cluster, agent: usize) -> Cost {
    cluster.agents()[agent].client().status().await.expect("a status").cost
}

async fn plan(cluster: &Cluster, agent: usize, site: &Site) -> Plan {
    let request = PlanRequest { reference: site.reference(), ..PlanRequest::default() };
    cluster.agents()[agent].client().post("/v1/plan", &request).await.expect("planned")
}

/// To 1 %; the origin also gives a listing and the headers that files are cut by.
fn came_true(planned: &Cost, accounted: &Cost, of: u64) {
    let extra = of / 100;
    assert!(accounted.origin_bytes.abs_diff(planned.origin_bytes) <= extra, "{planned:?} {accounted:?}");
    assert!(
        accounted.cross_zone_bytes.abs_diff(planned.cross_zone_bytes) <= extra,
        "{planned:?} {accounted:?}"
    );
    let (planned, accounted) =
        (planned.money.as_ref().expect("money"), accounted.money.as_ref().expect("money"));
    assert_eq!((planned.currency.as_str(), accounted.currency.as_str()), ("EUR", "EUR"));
    assert!(
        (planned.total - accounted.total).abs() <= of as f64 / GIB * 0.09 / 100.0,
        "{planned:?} {accounted:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_bytes_will_cost_and_the_status_what_they_did() {
    let site = Site::unpaced(64).await;
    let mut cluster = Cluster::empty().expect("a secret");
    for zone in ["here", "there", "there"] {
        cluster
            .join(|options| {
                options.zone = zone.to_owned();
                options.env = PRICES.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
            })
            .await
            .expect("an agent");
    }
    cluster.wait_formed(3).await.expect("formed");
    let bytes = site.model().bytes();

    // The first reads the origin.
    let planned = plan(&cluster, 0, &site).await;
    assert_eq!((planned.cost.origin_bytes, planned.cost.cross_zone_bytes), (bytes, 0), "{planned:?}");
    assert_eq!(cost(&cluster, 0).await.cross_zone_bytes, 0);
    site.is_whole(&site.pull(&cluster.agents()[0]).await);
    came_true(&planned.cost, &cost(&cluster, 0).await, bytes);

    // The second has it from the other zone.
    let planned = plan(&cluster, 1, &site).await;
    assert_eq!((planned.cost.origin_bytes, planned.cost.cross_zone_bytes), (0, bytes), "{planned:?}");
    site.is_whole(&site.pull(&cluster.agents()[1]).await);
    came_true(&planned.cost, &cost(&cluster, 1).await, bytes);

    // For the third there is somebody near, who is asked first.
    let planned = plan(&cluster, 2, &site).await;
    assert_eq!((planned.cost.origin_bytes, planned.cost.cross_zone_bytes), (0, 0), "{planned:?}");
    assert_eq!(planned.peer_bytes, bytes);

    let metrics = cluster.agents()[1].client().metrics().await.expect("metrics");
    let value = |line: &str| {
        let found = metrics.lines().find_map(|l| l.strip_prefix(line)?.trim().parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("no {line} in {metrics}"))
    };
    let now = cost(&cluster, 1).await;
    assert_eq!(value("emberline_cross_zone_bytes_total"), now.cross_zone_bytes as f64);
    let money = value("emberline_cost{for=\"cross_zone\",currency=\"EUR\"}");
    assert!((money - now.money.expect("money").cross_zone).abs() < 1e-9, "{money}");
}
