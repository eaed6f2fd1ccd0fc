//! `from_pretrained` with PyTorch: what is in memory then is what the origin has, weight by weight.

use emberline_tests::{conformance::record, environment::debian_torch};

use super::*;

/// Whether there is no PyTorch here, and says so.
fn is_skipped(test: &str) -> bool {
    let why = debian_torch().err();
    if let Some(why) = &why {
        eprintln!("SKIPPED {test}: {why}");
    }
    why.is_some()
}

/// Runs `program` with the origin's folder for an argument, cold and then whole here; each time it prints how many
/// weights it compared.
async fn loads(origin: &Path, program: &str, what: &str) {
    let hub = Hub::start(repository(origin)).await.unwrap();
    let door = Door::open(&hub).await;
    for round in ["while it comes", "when it is here"] {
        let home = Home::at(&door.base).with("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        let folder = origin.to_str().unwrap();
        let said = home.run(HubClient::TransformersTorch, program, &[folder]).await;
        let said = said.unwrap_or_else(|e| panic!("{round}: {e}"));
        let compared: usize = said.trim().parse().unwrap_or_else(|_| panic!("{round}: {said}"));
        assert!(compared > 20, "{round}: {compared} weights");
        door.whole().await;
    }
    let (name, version) = HubClient::TransformersTorch.name();
    record(DOOR, name, version, what);
    door.close().await;
}

const AUTO_MODEL: &str = "import sys, torch, safetensors.torch
from transformers import AutoModel, AutoTokenizer
origin = sys.argv[1]
model = AutoModel.from_pretrained('org/name').eval()
weights = safetensors.torch.load_file(origin + '/model.safetensors')
weights.pop('embeddings.position_ids', None)
state = model.state_dict()
assert set(weights) <= set(state), set(weights) - set(state)
for name, weight in weights.items():
    assert torch.equal(state[name], weight), name
question = AutoTokenizer.from_pretrained('org/name')('cold starts are slow', return_tensors='pt')
with torch.no_grad():
    ours = model(**question).last_hidden_state
    theirs = AutoModel.from_pretrained(origin).eval()(**question).last_hidden_state
assert ours.shape[-1] == 384 and torch.equal(ours, theirs)
print(len(weights))";

#[tokio::test(flavor = "multi_thread")]
async fn automodel_loads_the_real_model_with_every_weight_of_the_origin() {
    if is_skipped("automodel_loads_the_real_model_with_every_weight_of_the_origin") {
        return;
    }
    let what = "AutoModel.from_pretrained with PyTorch, every weight and a forward pass compared";
    loads(&minilm_dir(), AUTO_MODEL, what).await;
}

/// A model of random weights in the format of real ones: an index, and seven shards.
const WRITES_SHARDS: &str = "import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
torch.manual_seed(1)
model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=64, vocab_size=500, n_positions=64))
model.save_pretrained(sys.argv[1], max_shard_size='100KB', safe_serialization=True)";

const CAUSAL_LM: &str = "import sys, glob, torch, safetensors.torch
from transformers import AutoModelForCausalLM
origin = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained('org/name').eval()
weights = {}
shards = glob.glob(origin + '/model-*-of-*.safetensors')
for shard in shards:
    weights.update(safetensors.torch.load_file(shard))
state = model.state_dict()
assert len(shards) > 3 and set(weights) <= set(state), (shards, set(weights) - set(state))
for name, weight in weights.items():
    assert torch.equal(state[name], weight), name
how = dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
question = torch.tensor([[1, 2, 3]])
theirs = AutoModelForCausalLM.from_pretrained(origin).eval()
assert torch.equal(model.generate(question, **how), theirs.generate(question, **how))
print(len(weights))";

#[tokio::test(flavor = "multi_thread")]
async fn automodelforcausallm_loads_every_shard_and_says_the_same() {
    if is_skipped("automodelforcausallm_loads_every_shard_and_says_the_same") {
        return;
    }
    let origin = tempfile::tempdir().unwrap();
    let folder = origin.path().to_str().unwrap();
    // It asks no Hub.
    let home = Home::at("http://127.0.0.1:9");
    home.run(HubClient::TransformersTorch, WRITES_SHARDS, &[folder]).await.unwrap();
    let what =
        "AutoModelForCausalLM.from_pretrained with PyTorch, of shards, every weight and its words compared";
    loads(origin.path(), CAUSAL_LM, what).await;
}
