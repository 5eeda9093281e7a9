"""A Qwen2 of a hundred thousand parameters, its tokenizer and rows for every framework: `python tiny_model.py OUT`."""

import json
import os
import random
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

WORDS = ("red", "green", "blue", "cat", "dog", "bird", "runs", "eats", "sees", "big", "fast", "slow", "tree", "house")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main(out):
    os.makedirs(out, exist_ok=True)
    random.seed(0)
    torch.manual_seed(0)
    rows = [" ".join(random.choices(WORDS, k=random.randint(3, 8))) for _ in range(128)]
    write(f"{out}/alpaca.jsonl", [{"instruction": f"Reverse: {r}", "input": "", "output": r[::-1]} for r in rows])
    asked = [[{"role": "user", "content": f"Reverse: {r}"}, {"role": "assistant", "content": r[::-1]}] for r in rows]
    write(f"{out}/messages.jsonl", [{"messages": messages} for messages in asked])
    with open(f"{out}/dataset_info.json", "w") as file:
        json.dump({"tiny": {"file_name": "alpaca.jsonl"}}, file)
    tokenizer(rows).save_pretrained(f"{out}/model")
    config = Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.float32).save_pretrained(f"{out}/model")


def write(path, rows):
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tokenizer(rows):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(rows, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        additional_special_tokens=["<|im_start|>"], model_max_length=512,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
