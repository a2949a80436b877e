"""The network: a mask, tokens, attention, what is read out. The network itself knows no file.

Read `configuration_omnimouse`, `masking.mask_rules`, `masking.masks`, `attention`, `tokens`, `video`,
`session_tables.sessions` and `modeling_omnimouse`, in this order, and you have read the forward pass. What is refused,
how sessions come and go and how weights begin stand beside it. What to change for

- another modality: its sizes in `configuration_omnimouse`, what a mask shows of it in `masking.mask_rules`, its tokens
  and their times in `tokens` (an encoder of its own beside `video`), its shape in `input_checks`, and its place in
  `OmniMouseNetwork.forward` of `modeling_omnimouse`;
- another attention kernel: `kernels.attention_kernels` (which one is used where; `kernels.kernel_trials` tries it);
- another loss: `losses`, which names what goes with the present one elsewhere;
- another video layout: `video.LAYOUTS`, and its name in `configuration_omnimouse`;
- another task: `masking.masks.build_tasks`.
"""
