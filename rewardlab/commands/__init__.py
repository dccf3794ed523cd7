"""The commands and their pages.

Each command is a module with `run(command, argv) -> exit code`. The pages are what `--help` prints.
"""

from rewardlab.commands.training_pages import TRAINING_PAGES

PAGES = {
    "rewardlab": """\
rewardlab: train reward models, attack them, harden them, and measure how long they survive an
optimiser.

  rewardlab COMMAND [...]          rewardlab COMMAND --help

  fit        train one module: a reward, or a policy by SFT, DPO ...
  validate   run a module's validation loop
  test       run its test loop
  predict    run its prediction loop
  rounds     sample, fit the reward, post-train the policy, repeat
  sweep      run a config at many points over seeds, and say which is best
  attack     attack any reward model and say whether it was broken
  curve      draw how a judge fares while best-of-n climbs a reward
  score      score texts or pictures with a reward: one row a sample
  select     keep the best of each prompt's candidates, or make pairs of them
  evaluate   accuracy on benchmarks and preferences, calibration, named biases
  data       check what a fit would see in a file of pairs or a folder of pictures
  export     write a reward as a folder of transformers or ONNX, with its model card
  serve      answer for rewards over HTTP, in the forms that trainers speak
  generate   draw outputs of a policy into a folder of samples
  plan       say how much memory a config needs, before anything is loaded
  report     write one self-contained HTML page from run folders
  advise     say from short runs what to try first against over-optimisation
  doctor     show versions, devices and what is missing, with the command that mends it

Examples:
  rewardlab rounds --config configs/gan_rm/digits.yaml --out runs/digits
  rewardlab report runs/digits
  rewardlab doctor""",
    **TRAINING_PAGES,
    "rounds": """\
rewardlab rounds: the outer loop. Sample, fit the reward, select, post-train the policy, repeat.

  rewardlab rounds --config rounds.yaml [--config more.yaml] [--out RUN] [--stages DIR] [--resume]
                   [--KEY=VALUE ...]

  --config FILE       YAML with rounds: (class_path, init_args) and experiment:; later files and
                      flags override earlier ones
  --out RUN           run folder: config.yaml, run.json, stages/, results.json, timing.json,
                      policy/, reward/. Default: runs/ and the last config's name
  --stages DIR        share finished stages between runs; default RUN/stages
  --resume            go on from the last finished stage of a RUN that the same config made
  --dry-run           rehearse every stage on a few rows: sizes, seconds, disk; nothing stays
  --report=false      write no report.html at the end
  --experiment.KEY=V  a value that other keys take as ${experiment.KEY}: policy_path, reward_path,
                      tower_path, data_path, prompts_path, out, seed
  --rounds.help CLASS what a class takes; --help-all lists every flag

Examples:
  rewardlab rounds --config configs/gan_rm/digits.yaml --out runs/digits --resume
  rewardlab rounds --config configs/gan_rm/digits.yaml --config configs/gan_rm/digits_dpo.yaml \\
    --out runs/beta500 --rounds.init_args.post_train.loop.init_args.beta=500
  rewardlab rounds --config configs/adv_rm/own.yaml --experiment.policy_path model \\
    --experiment.data_path pairs.jsonl --experiment.prompts_path prompts.txt --out runs/own""",
    "sweep": """\
rewardlab sweep: run a config of `rounds` or `fit` at many points over seeds, and say which is best.

  rewardlab sweep SWEEP.yaml [--out FOLDER] [--resume] [--jobs N] [--stages DIR] [--dry-run]

  SWEEP.yaml    config: files; set: flags of all points; points: listed flags, grid: values of each
                key, random: {count, seed, of: ranges} (all three multiply); or search: {method:
                optuna, count, of: ranges}, which learns; seeds: of each point; figure: such as
                rounds.last.judged.gold or metrics.val/auc; better: higher or lower; prune: ends
                runs by their own readings; launcher: local, slurm or ray
  --out FOLDER  sweep.html, summary.csv, runs/, logs/. Default: runs/ and the file's name
  --resume      go on: finished points stand, failed ones are run again, new ones are added
  --jobs 1      runs at once, in processes of their own    --retries 1  tries more of what failed
  --stages DIR  share finished stages with other runs, too; points share FOLDER/stages by default
  --dry-run     rehearse the first seed of every point on a few rows; write nothing

Every point is built before the first runs, of a search the ends of its ranges. Exit code 0 if all
are finished or pruned, 1 if some failed.

Examples:
  rewardlab sweep configs/sweeps/gan_rm_digits.yaml --jobs 2
  rewardlab sweep configs/sweeps/adv_rm_search.yaml --jobs 2
  rewardlab sweep configs/sweeps/adv_rm_topics.yaml --out runs/attacks --resume""",
    "attack": """\
rewardlab attack: search for outputs that a reward overrates, and say whether it was broken.

  rewardlab attack --reward PATH|URL --witness PATH|URL --policy PATH --prompts FILE
                   [--judge PATH|URL] --out RUN [--resume]

  --reward,         the reward under attack, and one that should object (may be repeated: their
  --witness         mean); folders of rewards or of published sequence classifiers, or http(s)://
                    servers in OpenRLHF's form (--query-template, --query: see `score --help`)
  --judge PATH|URL  decides who is right; without it the verdict says only that reward and witness
                    part. Exit code 0 either way    --outliers PATH: MOP by a reward's features
  --policy PATH     folder of a policy, a transformers causal language model or a diffusers pipeline
  --prompts FILE    one a line, or .jsonl; none may be in --held-out FILE, unless --allow-leak
  --attacker NAME   best_of_n (default), high_temperature, random_edits, guided, token_gradient,
                    rl (--steps 200, --lr 1e-5). --help-all lists every flag
  --n 16            samples a prompt that the attack chooses from; as many fresh ones are its floor
  --references 8    responses a prompt to measure against    --seed 0    --chat false: plain text
  --weight 1        how much the witness counts    --max-length N  most tokens of a response
  --out RUN         run folder: attack.html, exploits.jsonl, results.json, stages/

Examples:
  rewardlab attack --reward rm --witness rm-seed-1 --judge gold --policy sft \\
    --prompts prompts.txt --out runs/attack
  rewardlab attack --reward http://127.0.0.1:5000 --witness rm --policy sft \\
    --prompts prompts.txt --attacker rl --out runs/a""",
    "curve": """\
rewardlab curve: draw proxy and gold against √KL while best-of-n climbs the proxy, and say whether
gold peaks inside the range.

  rewardlab curve --policy PATH --proxy PATH|URL --gold PATH|URL --prompts FILE [--n-max 64]
                  [--samples N] --out RUN [--resume]

  --policy PATH    folder of a policy, a transformers causal language model or a diffusers pipeline
  --proxy, --gold  the reward that is climbed, and the one that judges: folders, or http(s)://
                   servers (see `score --help`)
  --prompts FILE   one a line, or .jsonl; intervals are over prompts
  --n-max 64       the largest n
  --samples N      outputs of each prompt, from which all n are estimated without bias; default
                   twice --n-max
  --max-length N   most tokens of a response    --seed 0
  --chat false     for rewards that were trained on plain text; --policy-chat false: the policy
  --out RUN        run folder: curve.html, curve.png, curve.csv, results.json, stages/.
                   --help-all lists every flag

Examples:
  rewardlab curve --policy sft --proxy rm --gold gold --prompts prompts.txt --out runs/curve
  rewardlab curve --policy sft --proxy rm --gold gold --prompts prompts.txt --n-max 16 \\
    --samples 64 --out runs/small""",
    "score": """\
rewardlab score: what a reward says of each sample, one row a sample, in their order.

  rewardlab score REWARD SAMPLES [SAMPLES ...] [--out FILE] [--prompts FILE] [--resume]

  REWARD           a folder of a reward or of a published sequence classifier, or an http(s):// URL
  SAMPLES          rows (JSON lines, CSV, parquet, datasets) with "prompt" and "response", or
                   "messages"; a text file; a folder of pictures, videos or samples; a picture or
                   video; several tables or shards (tar), also patterns: 's-{000..003}.tar'
  --out FILE       a new .csv, .jsonl or .parquet file: row, score, reason (why there is none), the
                   samples' columns; FILE.json says how it was made. Without it CSV is printed
  --resume         go on from FILE.part    --keep all: the samples' own columns; scored; none
  --prompts FILE   one a sample; or --prompt-column, --output-column NAME, extensions in shards
  --sort best      highest scores first; worst: lowest first    --members: each member's score
  --skip-unreadable leaves broken rows unscored; --most-unscored S: so many that the reward fails on
  --size N         resize and crop pictures and frames to N × N; needed where their sizes differ
  --frames N --stride M  N frames of each video, M apart    --device NAME    --trust
  --batch-size 64  samples at once; or --tokens-per-batch N: tokens of texts, padding counted
  --chat false: plain text    --dialect FORM: openrlhf, vllm, sglang, tei or flow-factory
  --query-template TOKENIZER  folder of the tokenizer whose chat template writes what a URL is sent;
                   or --query 'Q: {prompt}\\nA: {response}'; --key-variable NAME: of its key

Examples:
  rewardlab score runs/reward/reward pictures --sort best --out scores.csv
  rewardlab score runs/reward/reward 'shards/{000..007}.tar' --size 224 --out scores.parquet""",
    "select": """\
rewardlab select: the best of each prompt's candidates by a reward, one row a prompt.

  rewardlab select REWARD CANDIDATES [CANDIDATES ...] --out FILE [--n N|all|auto] [--pairs FILE]

  REWARD, CANDIDATES  as REWARD and SAMPLES of `rewardlab score`; candidates of one prompt need not
                   stand together
  --out FILE       a new .csv, .jsonl or .parquet file: row, score, candidates, unscored, the
                   candidate's own columns; FILE.json says how it was made. --resume goes on
  --n all          choose from all candidates of a prompt; N: from the first N; auto: from as many
                   as is best by --gold, or else as many as the reward's members still agree on
  --gold COLUMN    a judge's scores, for --n auto; empty where a candidate was not judged
  --best 1         how many of each prompt are kept, the best first. Equal scores: the first wins
  --group COLUMN   what says which candidates belong together; by default the prompt
  --pairs FILE     a new .jsonl file with the best as chosen and the worst as rejected, as
                   `rewardlab fit` reads it; prompts whose candidates score alike make no pair
  --keep, --prompts, --prompt-column, --output-column, --skip-unreadable, --most-unscored, --size,
  --frames, --stride, --batch-size, --tokens-per-batch, --device, --trust, --chat, --query: those of
  `score --help`

Examples:
  rewardlab select rm drawn.jsonl --n 16 --out best.jsonl
  rewardlab select rm drawn.jsonl --n auto --gold judge --out best.jsonl --pairs pairs.jsonl""",
    "evaluate": """\
rewardlab evaluate: what a reward of texts gets right, on local files, and which edits fool it; or
which edits of pictures fool a reward of pictures.

  rewardlab evaluate REWARD FILE [FILE ...] [--out FOLDER]
  rewardlab evaluate REWARD --samples FOLDER [--size N] [--prompts FILE] [--out FOLDER]

  REWARD        a folder of a reward or of a published sequence classifier, or an http(s):// URL
  FILE          RewardBench, RewardBench 2, RM-Bench, JudgeBench, pairs in the form of PandaLM or
                LLMBar, or preference pairs with prompt, chosen and rejected; JSON, CSV, parquet, a
                folder of datasets. Told by its columns; nothing is downloaded
  --out FOLDER  a new folder: evaluate.html, results.json, rows.jsonl with every score, run.json.
                Without it the table is printed and nothing is written
  --samples     pictures, which are cropped, sharpened, saturated, brightened, saved as JPEG, given
                a text, blurred; --size N resizes them first, --prompts gives one a picture
  --audit 200   prompts whose right answers, or pictures that are edited, for the named biases
  --seed 0      seed of the bootstraps, and of the audit's prompts
  --resume      go on from FOLDER.part, which a run leaves that was killed
  --batch-size 64    --device NAME    --trust    --chat false: plain text, no chat template
  --query, --query-template, --key-variable: of a URL, --most-unscored: see `score --help`

Examples:
  rewardlab evaluate runs/rm/reward reward-bench-2.parquet --out runs/bench
  rewardlab evaluate rm held-out.jsonl rm-bench.json --chat false --audit 500
  rewardlab evaluate runs/digits/reward --samples targets --out runs/edits""",
    "data": """\
rewardlab data check: what a fit would see in a file of pairs, or in a folder of pictures or videos.

  rewardlab data check FILE [--tokenizer FOLDER] [--context N] [--against OTHER] [--out FIGURES]

  FILE             preference pairs (JSON, CSV, parquet, a folder of datasets, a folder of pairs),
                   told by their columns: docs/guide/data.md; prompts with responses; or a folder of
                   pictures or videos
  --tokenizer FOLDER  of the model that will read it: lengths in its tokens, its special tokens in
                   the texts. Without it lengths are in characters
  --context N      tokens that fit; by default as config.json in FOLDER says
  --chat false     plain text, no chat template    --dialogues turns  as Preferences has it
  --against OTHER  a benchmark, pairs or prompts: how many prompts and responses are shared; of
                   pictures, the generated ones: what trivially tells both folders apart
  --held-out 0.1 --held-out-by auto --seed 0  the split whose parts are looked at for shared
                   prompts and responses; prompts: hold out whole prompts
  --out FIGURES    a new .json file with every figure

Exit code 0 whatever is found, 2 if FILE cannot be read.

Examples:
  rewardlab data check pairs.jsonl --tokenizer model --against reward-bench-2.parquet
  rewardlab data check targets --against generated""",
    "export": """\
rewardlab export: a reward in the form of another library, with its model card.

  rewardlab export REWARD --to transformers|onnx|openrlhf|verl|flow-factory --out FOLDER
                   [--run RUN] [--results FILE ...]

  REWARD            a folder of a reward
  --to transformers texts: a sequence classifier with one label and its tokenizer, with code in the
                    folder where the mean over the response or several networks count; pictures: a
                    model and an image processor, whose code stands in the folder
  --to onnx         model.onnx from token tables, or from pixels, to scores and members
  --to openrlhf     (verl, flow-factory) reward.py, which loads the reward by rewardlab; no card
  --out FOLDER      a new folder; README.md in it is the card
  --run RUN         the run folder that trained the reward: data hashes, held-out accuracy, command
  --results FILE    results.json of `attack` and `evaluate` of this reward: success over its floors,
                    benchmarks, biases. What is not given is said to be not measured
  --dtype float32   of the weights, to transformers: float32, bfloat16 or float16
  --trust           load folders that name classes from outside rewardlab

What was written is loaded without rewardlab and has to score as the reward does. Exit code 0 then.

Examples:
  rewardlab export runs/rm/reward --to transformers --out rm-hf --run runs/rm \\
    --results runs/attack/results.json runs/bench/results.json
  rewardlab export runs/reward/reward --to onnx --out reward-onnx""",
    "serve": """\
rewardlab serve: answer for rewards over HTTP, in the forms that trainers speak.

  rewardlab serve REWARD [REWARD ...] [--port 5000] [--host 127.0.0.1]

  REWARD             a folder of a reward or of a published sequence classifier, or an http(s)://
                     URL; NAME=REWARD names it. Requests ask by "model" or ?reward=NAME for one of
                     several; the first is the default
  --port N           0 takes a free port. One line says where requests are answered
  --host ADDRESS     off loopback requests have to bring a token:
  --token-variable NAME  the environment variable that holds it
  --batch-size 32 --max-wait-ms 5  rows of different requests are scored together: at most so many,
                     after waiting at most so long
  --ready-file FILE  holds the URL while requests are answered
  --max-queue 4096   rows that wait, else 429    --max-rows 1024    of a request, else 413
  --max-body-mib 64 --max-megapixels 64    of a request, else 413
  --read-seconds 10  for a request to arrive, else 408    --drain-seconds 30  at SIGTERM or Ctrl-C
  --device NAME    --trust    --chat false: plain text, no chat template

POST /get_reward (OpenRLHF), /classify (vLLM), /v1/embeddings (SGLang), /predict (TEI), /compute
(Flow-Factory), /verify (NeMo Gym); GET /health, /metrics. Needs pip install 'rewardlab[serve]'.

Examples:
  rewardlab serve runs/rm/reward --port 5000
  rewardlab serve rm=runs/rm/reward eye=runs/digits/reward --port 0 --ready-file url.txt""",
    "generate": """\
rewardlab generate: draw outputs of a policy into a folder of samples.

  rewardlab generate POLICY [PROMPTS] --out FOLDER [--n 1] [--seed 0]

  POLICY          folder of a policy, a transformers causal language model or a diffusers pipeline
  PROMPTS         one a line, or rows (JSON, CSV, parquet) with "prompt", a text or a list of
                  {"role", "content"}; leave it out for a generator without prompts
  --n 1           outputs of each prompt    --seed 0
  --max-length N  most tokens of a response
  --out FOLDER    a new folder: pictures, videos or texts, metadata.jsonl with prompts, seeds and
                  groups. It is what `score` and the configs' folders of samples take
  --video frames  what each video becomes: a folder of frames, or a file: mkv keeps all, mp4, webm
                  and gif lose a little. --rate 8: frames a second of files
  --batch-size 64    --device NAME    --trust

Examples:
  rewardlab generate runs/sft/policy prompts.txt --n 4 --out drawn
  rewardlab score runs/reward/reward drawn --sort best""",
    "plan": """\
rewardlab plan: say how much memory a config of `fit` or `rounds` needs, before anything is loaded.

  rewardlab plan --config FILE [--config more.yaml] [--gpu-memory GIB] [--tokens N]
                 [--KEY=VALUE ...]

  --config FILE       as for `fit` and `rounds`, with the same flags. Of the model, config files are
                      enough; the published names of some generators stand for theirs
  --gpu-memory GIB    say whether it fits, and what to change if not; exit code 1 if not
  --tokens N          of a prompt with its response, for language models; by default the config's
                      max_length, or 1024

Examples:
  rewardlab plan --config configs/memory/flux.yaml --gpu-memory 24
  rewardlab plan --config configs/adv_rm/fit_dpo.yaml --experiment.policy_path model \\
    --tokens 512""",
    "report": """\
rewardlab report: write one self-contained HTML page from run folders alone.

  rewardlab report RUN [RUN ...] [--out FILE]

  RUN          a folder that `rewardlab rounds` or `rewardlab fit` wrote; several are compared
  --out FILE   default: report.html in the first RUN

Examples:
  rewardlab report runs/digits
  rewardlab report runs/digits runs/beta500 --out compare.html""",
    "advise": """\
rewardlab advise: say from your own short runs what of configs/menu/ to try first, with evidence.

  rewardlab advise RUN [RUN ...]

  RUN          a folder that `rewardlab rounds` or `rewardlab fit` wrote while it trained a policy;
               several, such as of several seeds, are taken together

Each advice is a figure that moved beyond its noise and past a threshold, what it means, and the
flags to lay over the same command, strongest first. No judge is read: what a judge is for is to
tell you afterwards whether the advice was right.

Examples:
  rewardlab advise runs/plain
  rewardlab advise runs/plain-0 runs/plain-1 runs/plain-2""",
    "doctor": """\
rewardlab doctor: show versions, devices, which extras and kernels work, and the command that mends
what does not. Exit code 0 if everything that rewardlab needs is there, else 1.

  rewardlab doctor

Examples:
  rewardlab doctor
  rewardlab doctor && rewardlab rounds --config configs/gan_rm/digits.yaml""",
}
