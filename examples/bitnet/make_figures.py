"""Store what transformers computes for a small random model, for `tests/test_bitnet.py`.

  pip install torch transformers && python examples/bitnet/make_figures.py --out=tests/data/bitnet

The model has every part of 2B-4T: shared keys and values, sub-norms, packed ternary matrices with scales other than 1,
tied embeddings. It writes config.json and model.safetensors in the layout of Hugging Face, and figures.safetensors:
tokens, each layer's input and output, logits, and greedy continuations.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations import bitnet as integration
from transformers.utils.quantization_config import BitNetQuantConfig

SIZES = {
  'vocab_size': 96,
  'hidden_size': 64,
  'intermediate_size': 176,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
  'tie_word_embeddings': True,
}
ROWS, LENGTH, CONTINUED = 3, 24, 16


def make_model() -> tuple[BitNetForCausalLM, BitNetConfig]:
  """Make the model, its ternary codes stored as the float weights of `AutoBitLinear`."""
  torch.manual_seed(0)
  config = BitNetConfig(**SIZES, attn_implementation='eager')
  model = BitNetForCausalLM(config).float().eval()
  how = BitNetQuantConfig(linear_class='autobitlinear', quantization_mode='offline', modules_to_not_convert=['lm_head'])
  model = integration.replace_with_bitnet_linear(model, ['lm_head'], how).to_empty(device='cpu')
  for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
    if name.endswith('norm.weight') or 'layernorm' in name:
      parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    elif name.endswith('weight_scale'):
      parameter.data = 0.02 + 0.1 * torch.rand_like(parameter)
    elif name.endswith('_proj.weight'):
      parameter.data = torch.randint(-1, 2, parameter.shape).float()
    elif 'embed_tokens' in name:
      parameter.data = torch.randn_like(parameter)
  model.model.rotary_emb = type(model.model.rotary_emb)(config)
  model.tie_weights()
  return model, config


def write_model(model: BitNetForCausalLM, config: BitNetConfig, folder: pathlib.Path) -> None:
  """Write the files that Hugging Face serves for 2B-4T, with matrices packed."""
  arrays = {}
  for name, tensor in model.state_dict().items():
    if name == 'lm_head.weight':
      continue
    arrays[name] = integration.pack_weights(tensor.clone()) if name.endswith('_proj.weight') else tensor.contiguous()
  save_file(arrays, folder / 'model.safetensors')
  values = {name: getattr(config, name) for name in (*SIZES, 'model_type', 'rms_norm_eps')}
  values['rope_theta'] = config.rope_parameters['rope_theta']
  values['quantization_config'] = {'linear_class': 'autobitlinear', 'quantization_mode': 'offline'}
  (folder / 'config.json').write_text(json.dumps(values, indent=2, sort_keys=True) + '\n')


@torch.no_grad()
def measure(model: BitNetForCausalLM) -> dict[str, torch.Tensor]:
  """Return tokens, inputs and outputs of layers, logits, and greedy continuations."""
  figures = {}

  def record(layer, module, arguments, keywords, output):
    figures[f'layer_{layer}.input'] = (arguments[0] if arguments else keywords['hidden_states']).clone()
    figures[f'layer_{layer}.output'] = (output[0] if isinstance(output, tuple) else output).clone()

  for layer, module in enumerate(model.model.layers):
    module.register_forward_hook(lambda *arguments, layer=layer: record(layer, *arguments), with_kwargs=True)
  tokens = torch.randint(SIZES['vocab_size'], (ROWS, LENGTH))
  figures['logits'] = model(tokens).logits
  seen = dict(figures)
  continued = tokens
  for _ in range(CONTINUED):
    continued = torch.cat([continued, model(continued).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
  return {
    **{name: tensor.contiguous() for name, tensor in seen.items()},
    'tokens': tokens.int(),
    'continued': continued[:, LENGTH:].int().contiguous(),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', metavar='FOLDER', type=pathlib.Path, required=True)
  folder = parser.parse_args().out
  folder.mkdir(parents=True, exist_ok=True)
  model, config = make_model()
  write_model(model, config, folder)
  save_file(measure(model), folder / 'figures.safetensors')


if __name__ == '__main__':
  main()
