"""What mlx-lm says of an exported folder, as JSON. Run by an interpreter that has mlx-lm:

python mlx_peer.py FOLDER IDS   (token ids, as JSON)
"""

import json
import sys

import mlx.core as mx
from mlx_lm import generate, load
from mlx_lm.generate import generate_step

folder, ids = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = load(folder)
logits = model(mx.array([ids]))[0].astype(mx.float32)
greedy = [int(token) for token, _ in generate_step(mx.array(ids), model, max_tokens=12)]
question = [{"role": "user", "content": "the cat?"}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
text = generate(model, tokenizer, prompt, max_tokens=4)
print(json.dumps({"logits": logits.tolist(), "greedy": greedy, "prompt": prompt, "text": text}))
