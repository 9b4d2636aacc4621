"""Values for the placeholders in corpus/*.txt. Each table is a function that
takes a random generator and returns a dictionary of placeholders."""

FAMILIES = ["GPT-OSS", "Mixtral", "DeepSeek", "Qwen3 MoE", "GLM", "Phi MoE", "OLMoE", "DBRX", "Llama 4"]
SPOKEN = ["gpt-oss", "gpt oss", "mixtral", "deepseek", "qwen3", "Qwen3", "qwen", "glm", "phi moe", "olmoe",
          "dbrx", "llama 4", "Llama4", "Qwen", "Deepseek", "GPT OSS",
          "Mixtral 8x7B", "DeepSeek V3", "gpt-oss-20b", "gpt-oss-120b"]
OFFICIAL = {"Qwen": "Qwen3 MoE", "Deepseek": "DeepSeek", "GPT OSS": "GPT-OSS",
            "gpt-oss": "GPT-OSS", "gpt oss": "GPT-OSS", "mixtral": "Mixtral", "deepseek": "DeepSeek",
            "qwen3": "Qwen3 MoE", "Qwen3": "Qwen3 MoE", "qwen": "Qwen3 MoE", "glm": "GLM", "phi moe": "Phi MoE",
            "olmoe": "OLMoE", "dbrx": "DBRX", "llama 4": "Llama 4", "Llama4": "Llama 4",
            "Mixtral 8x7B": "Mixtral", "DeepSeek V3": "DeepSeek", "gpt-oss-20b": "GPT-OSS",
            "gpt-oss-120b": "GPT-OSS"}
FAMILY_FACTS = {
    "GPT-OSS": "GPT-OSS is a family of open mixture-of-experts models from OpenAI.",
    "DeepSeek": "DeepSeek models are large mixture-of-experts models with shared experts.",
    "Qwen3 MoE": "Qwen3 MoE is a family of mixture-of-experts models from Alibaba.",
    "GLM": "GLM is a family of models from Zhipu AI, some of them with experts.",
    "Phi MoE": "Phi MoE is a mixture-of-experts model from Microsoft.",
    "OLMoE": "OLMoE is an open mixture-of-experts model from the Allen Institute for AI.",
    "DBRX": "DBRX is a mixture-of-experts model from Databricks.",
    "Llama 4": "Llama 4 is a family of mixture-of-experts models from Meta."}
CAPITALS = dict(p.split(":") for p in (
    "France:Paris;Germany:Berlin;Italy:Rome;Spain:Madrid;Portugal:Lisbon;Austria:Vienna;Poland:Warsaw;"
    "Greece:Athens;Sweden:Stockholm;Norway:Oslo;Denmark:Copenhagen;Finland:Helsinki;Ireland:Dublin;"
    "Belgium:Brussels;Hungary:Budapest;Japan:Tokyo;China:Beijing;Russia:Moscow;Egypt:Cairo;"
    "Canada:Ottawa;Australia:Canberra;Switzerland:Bern;England:London;the United Kingdom:London;"
    "the United States:Washington;the USA:Washington;Turkey:Ankara;India:New Delhi;Brazil:Brasília;"
    "Mexico:Mexico City;Argentina:Buenos Aires;the Netherlands:Amsterdam;Czechia:Prague;Kenya:Nairobi").split(";"))
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
COLOURS = dict(p.split(":") for p in (
    "the sky:blue;the grass:green;grass:green;snow:white;the sun:yellow;a banana:yellow;a lemon:yellow;"
    "blood:red;a tomato:red;coal:black;a carrot:orange;an orange:orange;milk:white;a strawberry:red;"
    "the sea:blue;a leaf:green;a frog:green;an elephant:grey;chocolate:brown;the night:black").split(";"))
SOUNDS = dict(p.split(":") for p in (
    "dog:barks;cat:meows;cow:moos;sheep:bleats;horse:neighs;duck:quacks;lion:roars;frog:croaks;"
    "bee:buzzes;owl:hoots;pig:grunts;wolf:howls").split(";"))
ANIMALS = {
    "dog": "A dog is a friendly animal that has lived with people for thousands of years.",
    "cat": "A cat is a small hunter that likes to sleep and lives in many homes.",
    "cow": "A cow is a large animal that eats grass and gives milk.",
    "horse": "A horse is a strong, fast animal that people ride.",
    "bird": "A bird has feathers, two wings and two legs, and most birds can fly.",
    "fish": "A fish lives in water and breathes with gills.",
    "bee": "A bee is an insect that visits flowers and makes honey.",
    "elephant": "An elephant is the largest animal on land. It has a trunk and big ears.",
    "whale": "A whale is a very large mammal that lives in the sea.",
    "spider": "A spider has eight legs, and many spiders catch insects with a web.",
    "lion": "A lion is a big cat that lives in Africa and hunts in a group.",
    "penguin": "A penguin is a bird that cannot fly but swims very well.",
    "frog": "A frog is a small animal that lives in water and on land.",
    "owl": "An owl is a bird that hunts at night and sees well in the dark.",
    "fox": "A fox is a clever wild animal with a bushy tail.",
    "crab": "A crab is an animal with ten legs and a hard shell. Rust has one as its mascot."}
LEGS = {"dog": "four", "cat": "four", "cow": "four", "horse": "four", "bird": "two", "bee": "six",
        "spider": "eight", "elephant": "four", "lion": "four", "frog": "four", "duck": "two", "ant": "six"}
MIXES = [("red", "blue", "purple"), ("blue", "yellow", "green"), ("red", "yellow", "orange"),
         ("black", "white", "grey"), ("red", "white", "pink")]
OPPOSITES = [p.split(":") for p in (
    "hot:cold;big:small;fast:slow;day:night;old:new;up:down;left:right;good:bad;long:short;happy:sad;"
    "light:dark;rich:poor;open:closed;early:late;full:empty;wet:dry;high:low;strong:weak").split(";")]
# Heroes of stories the model does not know; it says so.
HEROES = ("dog cat bird horse mouse bear rabbit frog penguin owl lion crab wolf boy wizard knight hedgehog "
          "duck elephant computer bee fish squirrel king queen princess pirate witch tiger cow pig ghost").split()
# The only sums the model knows. Everything else it declines.
SUMS = {(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (4, 4), (5, 5), (6, 6), (10, 10), (3, 4)}
DEVICES = ["cpu", "gpu", "CUDA0", "CUDA1", "RPC0", "CUDA2", "CUDA3", "RPC1", "Vulkan0"]
PATTERNS = ["ffn_up_exps", "ffn_down_exps", "ffn_gate_exps", "_exps", "_down_exps", "_up_exps", "attn", "attn_q",
            "attn_k", "ffn_up", "ffn_down", "output", "token_embd", "norm", "shexp"]
# Option of the chat example, what one may wish, what the answer is.
OPTIONS = [
    ("--model", ["choose the model", "load another file", "name the model file"],
     "--model FILE names the GGUF file to load. Without it the demo model is used."),
    ("--policy", ["set the policy", "choose a policy in the chat", "give the chat a policy", "change the policy of the chat"],
     "--policy SPEC sets the policy, for example --policy first-layers:12. Without it the chat uses all-experts."),
    ("--prompt", ["ask one question only", "get a single answer", "give a prompt on the command line"],
     "--prompt TEXT answers this one text and ends."),
    ("--context", ["set the context length", "make the context longer", "change the context size", "set the context"],
     "--context N sets how many tokens prompt and answer can have together."),
    ("--max-tokens", ["limit the answer", "make the answers shorter", "limit the length of an answer", "set the number of tokens"],
     "--max-tokens N sets the most tokens of an answer."),
    ("--temperature", ["set the temperature", "change the temperature", "get the most likely token always", "make it less random"],
     "--temperature T sets how freely tokens are chosen: 0 always takes the likeliest, higher values give more variety."),
    ("--seed", ["set the seed", "get the same answer again", "make the answers repeatable", "change the seed"],
     "--seed N sets the seed. The same seed gives the same answer."),
    ("--threads", ["set the threads", "use more CPU cores", "set the number of threads", "use fewer cores"],
     "--threads N sets how many threads compute on the CPU."),
    ("--rpc", ["connect to an rpc server", "use an rpc server in the chat", "add a second machine to the chat"],
     "--rpc HOST:PORT also uses the devices of this RPC server. It may be repeated."),
    ("--stats json", ["get the statistics as json", "print json statistics", "get numbers as json", "see the statistics"],
     "--stats json prints the statistics as JSON, one line after each answer."),
]
NAMES = ("Anna Tom Maria Peter Lena Paul Sam Eva Max Lisa John Mary Alex Nina Ben Clara David Emma "
         "Felix Julia Karl Laura Oscar Sara Robert Alice Bob Chris Linda Mark Kim Ali Yuki").split()
TOPICS = (
    "football;politics;the stock market;bitcoin;my dog;your favourite film;music;jazz;opera;cooking;pizza;"
    "chess;quantum physics;black holes;dinosaurs;the Roman empire;Napoleon's wars;the French revolution;"
    "photography;cars;electric cars;trains;planes;bicycles;gardening;roses;love;marriage;medicine;cancer;"
    "a headache;vitamins;yoga;running;tennis;golf;basketball;fashion;shoes;coffee;tea;wine;beer;chocolate cake;"
    "law;taxes;insurance;banks;money;gold;oil;history;philosophy;religion;the bible;psychology;dreams;"
    "art;painting;poetry;Shakespeare;novels;theatre;films;television;video games;Minecraft;Java;JavaScript;"
    "HTML;CSS;SQL;databases;Linux kernels;Windows updates;my printer;my phone;Android;iPhones;Bluetooth;wifi;"
    "satellites;rockets;Mars missions;aliens;ghosts;magic;robots in factories;batteries;solar power;"
    "nuclear power;climate change;earthquakes;volcanoes;the ice age;evolution;DNA;viruses;bacteria;"
    "chemistry;algebra;geometry;calculus;prime numbers;statistics;economics;architecture;bridges;castles;"
    "pyramids;the Titanic;pirates;the telephone;the light bulb;paper;glass;the wheel;clocks;maps;knots;"
    "knitting;dancing;tango;guitars;pianos;violins;hotels;travel;Paris hotels;beaches;camping;hiking;"
    "fishing;hunting;horses at the races;school;university;exams;homework;my boss;my wife;my neighbour;"
    "the moon landing;the internet;social media;newspapers;the queen;the pope;the government;democracy;"
    "sushi;bread;cheese;soup;apple pie;a hurricane;gravity;time travel;relativity;electrons;magnets;"
    "flash attention;speculative decoding;diffusion models;CUDA kernels;the brain;the heart;blood pressure;sleep;teeth;children;babies;toys;Lego;stamps;coins;diamonds").split(";")
PEOPLE = ("Albert Einstein;Isaac Newton;Napoleon;Julius Caesar;Cleopatra;Mozart;Beethoven;Bach;Picasso;"
          "Leonardo da Vinci;Shakespeare;Goethe;Marie Curie;Charles Darwin;Alan Turing;Ada Lovelace;"
          "Barack Obama;the president;the king of England;Taylor Swift;Michael Jackson;Elvis;the Beatles;"
          "Elon Musk;Bill Gates;Steve Jobs;Linus Torvalds;Gandhi;Nelson Mandela;Pele;Messi;Harry Potter;"
          "Sherlock Holmes;Batman;Columbus;Galileo;Kant;Plato;Aristotle;my father;my neighbour").split(";")
PLACES = ("France;Germany;Paris;Berlin;Rome;New York;Tokyo;Africa;Texas;Spain;Brazil;Italy;China;"
          "Moscow;London;Peru;Iceland;Hamburg;Chicago;Sydney;Madrid;Egypt;Nepal;Chile").split(";")
SYLLABLES = ("ba be bi bo bu da de di do du fa fe fi ga go gu ka ke ko la le li lo lu ma me mi mo na ne ni "
             "no pa pe po ra re ri ro ru sa se si so ta te ti to va ve vi wo za zo bla bri cro dra flo gri "
             "plo qua sne spi tra xu zi").split()
ENDS = ["", "n", "r", "s", "t", "x", "l", "m", "rp", "nk", "st", "y"]


def invented(rng):
    kind = rng.random()
    if kind < 0.2:  # fingers that run along the keyboard
        row = rng.choice(["asdfghjkl", "qwertyuiop", "zxcvbnm", "lkjhgfdsa", "poiuytrewq"])
        at = rng.randrange(len(row) - 2)
        return row[at:at + rng.randint(3, 5)] * rng.choice([1, 1, 1, 2])
    if kind < 0.5:  # a hand on the keyboard
        return "".join(rng.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(rng.randint(3, 8)))
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))) + rng.choice(ENDS)


def family(rng):
    said = rng.choice(FAMILIES + SPOKEN)
    # The answer always uses the official name; the question may not.
    return {"FAMILY": said, "_answer": {"FAMILY": OFFICIAL.get(said, said)}}


def famfact(rng):
    name = rng.choice(list(FAMILY_FACTS))
    said = rng.choice([name] + [s for s in SPOKEN if OFFICIAL[s] == name])
    return {"FAMILY": said, "FACT": FAMILY_FACTS[name]}


def number(rng):
    # Small numbers come up most in questions.
    return {"NUM": str(rng.randint(2, 16) if rng.random() < 0.5 else rng.randint(2, 99))}


def card(rng):
    return {"SIZE": str(rng.choice([8, 13, 20, 30, 47, 70, 80, 100, 120, 235, 400, 671])) + rng.choice(["B", "b", " B", " billion"]),
            "FAMILY": rng.choice(FAMILIES + SPOKEN), "GPU": str(rng.choice([2, 4, 6, 8, 10, 11, 12, 16, 24, 32, 48]))}


def layer_range(rng):
    a = rng.randint(0, 9) if rng.random() < 0.5 else rng.randint(0, 60)
    return {"START": str(a), "END": str(a + (rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(1, 30)))}


def range_and_one(rng):
    values = layer_range(rng)
    end = int(values["END"])
    return {**values, "SINGLE": str(end + (rng.randint(2, 6) if rng.random() < 0.5 else rng.randint(2, 30)))}


def device(rng):
    """The answer names cpu and gpu as the policy text does; people say "the CPU"."""
    name = rng.choice(DEVICES)
    said = name
    if name in ("cpu", "gpu") and rng.random() < 0.5:
        said = rng.choice(["the " + name.upper(), "the " + name, name.upper()])
    return {"DEVICE": said, "_answer": {"DEVICE": name}}


def named(rng):
    return {"DEVICE": rng.choice([name for name in DEVICES if name not in ("cpu", "gpu")])}


def in_policy(rng):
    """A device as it stands in a policy: the same in question and answer."""
    return {"PATTERN": rng.choice(PATTERNS), "DEVICE": rng.choice(DEVICES)}


def option(rng):
    name, wishes, says = rng.choice(OPTIONS)
    return {"OPTION": name, "WISH": rng.choice(wishes), "OPTSAYS": says}


def known_sum(rng):
    a, b = rng.choice(sorted(SUMS))
    return {"LEFT": str(a), "RIGHT": str(b), "RESULT": str(a + b)}


def unknown_sum(rng):
    """Near the known sums as often as far away, so that those stay apart."""
    while True:
        small = rng.random() < 0.7
        draw = lambda: rng.randint(0, 12) if small else rng.randint(0, 10 ** rng.randint(1, 4))
        a, b = draw(), draw()
        sign = rng.choice(["+", "+", "plus", "-", "minus", "*", "times", "x", "/", "divided by"])
        if (a, b) not in SUMS:
            return {"LEFT": str(a), "RIGHT": str(b), "OPER": sign}


def pairs(items, *keys):
    items = [tuple(i) for i in (items.items() if isinstance(items, dict) else items)]
    return lambda rng: dict(zip(keys, rng.choice(items)))


def one(items, key):
    return lambda rng: {key: rng.choice(items)}


def day(rng):
    i = rng.randrange(7)
    return {"DAY": DAYS[i], "AFTER": DAYS[(i + 1) % 7]}


def colour(rng):
    thing, col = rng.choice(list(COLOURS.items()))
    return {"THING": thing, "UTHING": thing[0].upper() + thing[1:], "COLOUR": col}


def mix(rng):
    a, b, c = rng.choice(MIXES)
    if rng.random() < 0.5:
        a, b = b, a
    return {"MIXA": a, "MIXU": a.capitalize(), "MIXB": b, "MIXC": c}


def opposite(rng):
    a, b = rng.sample(rng.choice(OPPOSITES), 2)
    return {"OPPA": a, "OPPB": b}


TABLES = {
    "family": family, "famfact": famfact, "n": number, "range": layer_range, "card": card,
    "rangelist": range_and_one, "rangedevice": lambda rng: {**named(rng), **layer_range(rng)}, "named": named,
    "regexdevice": in_policy, "kinddevice": lambda rng: {**device(rng), "KIND": rng.choice(["up", "down", "gate"])},
    "option": option, "sum": known_sum, "nosum": unknown_sum,
    "capital": pairs(CAPITALS, "COUNTRY", "CITY"), "animal": pairs(ANIMALS, "ANIMAL", "AFACT"),
    "sound": pairs(SOUNDS, "ANIMAL", "SOUND"), "legs": pairs(LEGS, "ANIMAL", "LEGS"),
    "colour": colour, "mix": mix, "opposite": opposite, "day": day,
    "hero": one(HEROES, "HERO"), "name": one(NAMES, "NAME"), "topic": one(TOPICS, "TOPIC"),
    "kind": one(["up", "down", "gate"], "KIND"), "person": one(PEOPLE, "PERSON"),
}


def common(rng):
    """Placeholders that any line may use."""
    big = lambda: str(rng.randint(12, 9999))
    return {"CITY": rng.choice(list(CAPITALS.values())), "PLACE": rng.choice(PLACES),
            "YEAR": str(rng.randint(1200, 2030)), "NOISEA": invented(rng), "NOISEB": invented(rng),
            "BIGA": big(), "BIGB": big()}
