"""The network: a mask, tokens, attention, what is read out. Knows no file of weights and no repo.

Read `configuration_omnimouse`, `mask_rules`, `masks`, `attention`, `tokens`, `video`, `sessions` and
`modeling_omnimouse`, in this order, and you have read the forward pass. What to change for

- another modality: its sizes in `configuration_omnimouse`, what a mask shows of it in `mask_rules`, its tokens and
  their times in `tokens` (an encoder of its own beside `video`), its shape in `input_checks`, and its place in
  `OmniMouseNetwork.forward` of `modeling_omnimouse`;
- another attention kernel: `attention_kernels` (which one is used where; `kernel_trials` tries it);
- another loss: `losses`;
- another video layout: `video.LAYOUTS`, and its name in `configuration_omnimouse`;
- another task: `masks.build_tasks`.
"""
