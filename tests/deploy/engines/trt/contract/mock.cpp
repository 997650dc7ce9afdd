// A stand-in for TensorRT's three libraries, written for these tests: it computes nothing and logs every call.
//
// The real Python bindings reach TensorRT through C++ objects: a table of virtual functions, then a pointer to the
// implementation, which has a table of its own. Here both are one object that points to itself, with one table a kind.
// Which entry of a table is which method is not written down: the file that MOCK_SLOTS names holds lines
// "kind method entry", which probe.py finds by calling each method of the bindings once. An entry without a name logs its
// number and gives back a new object (or zero), which is all that the probe needs.
//
// What is answered (inputs, outputs, layers, faults) is read from the file that mock_reset is given; see read_script.

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace
{

using Word = std::intptr_t;
constexpr int kEntries = 160;

struct Dims
{
    std::int32_t count;
    std::int64_t size[8];
};

struct Tensor
{
    bool is_input;
    std::string name;
    std::int32_t dtype;
    Dims dims;
};

struct Object
{
    void** table;
    Object* implementation;
    std::string kind;
    std::string bytes;
    Tensor tensor;
    std::map<std::string, Dims> shapes;
    std::map<std::string, void*> addresses;
    void* profiler;
    void* listener;
};

struct ParserError
{
    std::int32_t code;
    std::string node, operation, text;
};

struct Script
{
    std::vector<Tensor> tensors;
    std::vector<ParserError> parser_errors;
    std::vector<std::pair<std::string, float>> layers;
    std::vector<Tensor> debug;
    std::set<std::string> faults;
    std::string inspector;
};

// What an application implements; the mock calls it as TensorRT does. Interfaces with a version begin with three
// functions of their own: the listener always had them, the logger and the profiler since TensorRT 11.
struct Versioned
{
    virtual std::int32_t getAPILanguage() const noexcept = 0;
    virtual Dims getInterfaceInfo() const noexcept = 0;
    virtual ~Versioned() = default;
};

struct Logger10
{
    virtual void log(std::int32_t severity, char const* text) noexcept = 0;
};

struct Logger11 : Versioned
{
    virtual void log(std::int32_t severity, char const* text) noexcept = 0;
};

struct Profiler10
{
    virtual void reportLayerTime(char const* layer, float milliseconds) noexcept = 0;
};

struct Profiler11 : Versioned
{
    virtual void reportLayerTime(char const* layer, float milliseconds) noexcept = 0;
};

struct Listener : Versioned
{
    virtual bool processDebugTensor(void const* address, std::int32_t location, std::int32_t dtype, Dims const& shape,
        char const* name, void* stream) noexcept
        = 0;
};

struct Polymorphic // lends its type information, which pybind11 reads of every object that it wraps
{
    virtual ~Polymorphic() = default;
};

Script script;
void* logger = nullptr;
int major = 0;
bool give_zero = false;
std::set<void*> alive;
std::map<std::string, void**> tables;
std::map<std::string, int> entries; // "kind method" to the entry

[[gnu::format(printf, 1, 2)]] void note(char const* format, ...)
{
    char const* path = std::getenv("MOCK_LOG");
    std::FILE* file = path ? std::fopen(path, "a") : stderr;
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(file, format, arguments);
    va_end(arguments);
    std::fputc('\n', file);
    path ? std::fclose(file) : std::fflush(file);
}

std::string text(Dims const& dims)
{
    std::string out;
    for (int i = 0; i < dims.count; ++i)
    {
        out += (i ? "x" : "") + std::to_string(dims.size[i]);
    }
    return out;
}

Dims parsed(std::string const& words)
{
    Dims dims{};
    std::stringstream stream(words);
    for (std::string one; std::getline(stream, one, 'x');)
    {
        dims.size[dims.count++] = std::stoll(one);
    }
    return dims;
}

// Lines of the script: "input NAME DTYPE 1x3x4x4", "output ...", "debug ...", "layer MILLISECONDS NAME",
// "parser_error CODE NODE OPERATION TEXT", "fault WORD" (a call that fails; "reversed": the engine lists its inputs and
// outputs in another order than the network), "inspector FILE".
void read_script(char const* path)
{
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
    {
        std::stringstream words(line);
        std::string key;
        words >> key;
        if (key == "input" || key == "output" || key == "debug")
        {
            Tensor one{key == "input", "", 0, {}};
            std::string dims;
            words >> one.name >> one.dtype >> dims;
            one.dims = parsed(dims);
            (key == "debug" ? script.debug : script.tensors).push_back(one);
        }
        else if (key == "layer")
        {
            float milliseconds;
            std::string name;
            words >> milliseconds >> std::ws;
            std::getline(words, name);
            script.layers.emplace_back(name, milliseconds);
        }
        else if (key == "parser_error")
        {
            ParserError one;
            words >> one.code >> one.node >> one.operation >> std::ws;
            std::getline(words, one.text);
            script.parser_errors.push_back(one);
        }
        else if (key == "fault")
        {
            std::string word;
            words >> word;
            script.faults.insert(word);
        }
        else if (key == "inspector")
        {
            std::string name;
            words >> name;
            std::ifstream inspected(name);
            script.inspector.assign(std::istreambuf_iterator<char>(inspected), {});
        }
    }
}

void log_message(std::int32_t severity, char const* message)
{
    if (major >= 11)
    {
        return static_cast<Logger11*>(logger)->log(severity, message);
    }
    static_cast<Logger10*>(logger)->log(severity, message);
}

void report_time(void* profiler, char const* layer, float milliseconds)
{
    if (major >= 11)
    {
        return static_cast<Profiler11*>(profiler)->reportLayerTime(layer, milliseconds);
    }
    static_cast<Profiler10*>(profiler)->reportLayerTime(layer, milliseconds);
}

bool fault(char const* word, char const* message)
{
    if (!script.faults.count(word))
    {
        return false;
    }
    log_message(1, message); // severity 1 is an error
    return true;
}

Object* made(std::string const& kind);

template <int entry>
Word unnamed(void* first, void* second)
{
    bool const by_value = !alive.count(first); // then the first argument is where a struct is to be written
    void* self = by_value ? second : first;
    if (!alive.count(self))
    {
        note("entry %d of something that the mock did not make", entry);
        std::abort();
    }
    auto const& kind = static_cast<Object*>(self)->kind;
    note("? %s %d", kind.c_str(), entry);
    if (by_value)
    {
        std::memset(first, 0, sizeof(Dims));
        return reinterpret_cast<Word>(first);
    }
    return give_zero ? 0 : reinterpret_cast<Word>(made(kind + "#" + std::to_string(entry)));
}

template <int entry>
void deleted(void*)
{
}

template <std::size_t... numbers>
void fill(void** table, std::index_sequence<numbers...>)
{
    ((table[numbers] = reinterpret_cast<void*>(&unnamed<numbers>)), ...);
}

void** table_of(std::string const& kind)
{
    auto& table = tables[kind];
    if (!table)
    {
        static Polymorphic const lender;
        void** const lent = *reinterpret_cast<void** const*>(&lender);
        table = new void*[kEntries + 2] + 2;
        table[-2] = nullptr;  // offset to the whole object
        table[-1] = lent[-1]; // type information
        fill(table, std::make_index_sequence<kEntries>());
        if (kind.rfind("parser", 0) != 0) // a pure interface has its destructor last, the others first
        {
            table[0] = table[1] = reinterpret_cast<void*>(&deleted<0>);
        }
    }
    return table;
}

Object* made(std::string const& kind)
{
    auto* object = new Object{};
    object->table = table_of(kind);
    object->implementation = object;
    object->kind = kind;
    alive.insert(object);
    return object;
}

template <typename Function>
void name(char const* kind, char const* method, Function function)
{
    auto const found = entries.find(std::string(kind) + " " + method);
    if (found != entries.end())
    {
        table_of(kind)[found->second] = reinterpret_cast<void*>(+function);
    }
}

Tensor const& tensor_named(char const* wanted)
{
    for (auto const& one : script.tensors)
    {
        if (one.name == wanted)
        {
            return one;
        }
    }
    note("no tensor %s", wanted);
    std::abort();
}

Tensor const& nth(bool is_input, int index)
{
    for (auto const& one : script.tensors)
    {
        if (one.is_input == is_input && index-- == 0)
        {
            return one;
        }
    }
    note("no such input or output");
    std::abort();
}

int count(bool is_input)
{
    int total = 0;
    for (auto const& one : script.tensors)
    {
        total += one.is_input == is_input;
    }
    return total;
}

Object* tensor_object(Tensor const& tensor)
{
    auto* object = made("tensor");
    object->tensor = tensor;
    return object;
}

Object* memory_of(std::string const& bytes)
{
    auto* object = made("memory");
    object->bytes = bytes;
    return object;
}

Dims shape_in(Object* context, Tensor const& tensor)
{
    auto const found = context->shapes.find(tensor.name);
    Dims dims = found == context->shapes.end() ? tensor.dims : found->second;
    for (auto const& [unused, given] : context->shapes)
    {
        if (dims.size[0] == -1)
        {
            dims.size[0] = given.size[0];
        }
    }
    return dims;
}

std::int64_t elements(Dims const& dims)
{
    std::int64_t total = 1;
    for (int i = 0; i < dims.count; ++i)
    {
        total *= dims.size[i];
    }
    return total;
}

// Element k of every output is twice element k of the first input (which repeats) plus one; of halves, element k itself.
bool execute(Object* context, void* stream)
{
    note("context enqueueV3 stream=%ld", reinterpret_cast<long>(stream));
    if (fault("enqueueV3", "enqueueV3: the mock was told to fail"))
    {
        return false;
    }
    auto const& input = nth(true, 0);
    auto const* from = static_cast<float const*>(context->addresses.at(input.name));
    auto const* halves = static_cast<std::uint16_t const*>(context->addresses.at(input.name));
    constexpr std::int32_t half = 1; // nvinfer1::DataType::kHALF
    auto const given = elements(shape_in(context, input));
    for (auto const& one : script.tensors)
    {
        for (std::int64_t k = 0; !one.is_input && k < elements(shape_in(context, one)); ++k)
        {
            if (input.dtype == half)
            {
                static_cast<std::uint16_t*>(context->addresses.at(one.name))[k] = halves[k % given];
                continue;
            }
            static_cast<float*>(context->addresses.at(one.name))[k] = 2 * from[k % given] + 1;
        }
    }
    for (auto const& [layer, milliseconds] : script.layers)
    {
        if (context->profiler)
        {
            report_time(context->profiler, layer.c_str(), milliseconds);
        }
    }
    for (auto const& one : script.debug)
    {
        std::string codes;
        for (std::int64_t k = 0; k < elements(one.dims); ++k)
        {
            codes += static_cast<char>(k % 256);
        }
        codes.resize(codes.size() * 4);
        if (context->listener)
        {
            static_cast<Listener*>(context->listener)
                ->processDebugTensor(codes.data(), 0, one.dtype, one.dims, one.name.c_str(), stream);
        }
    }
    return true;
}

void name_build()
{
    name("builder", "create_network", [](Object*, std::uint32_t flags) {
        note("builder createNetworkV2 flags=%u", flags);
        return made("network");
    });
    name("builder", "create_builder_config", [](Object*) { return made("config"); });
    name("builder", "create_optimization_profile", [](Object*) {
        note("builder createOptimizationProfile");
        return made("profile");
    });
    name("builder", "build_serialized_network", [](Object*, Object* network, Object* config) -> Object* {
        note("builder buildSerializedNetwork %s %s", network->kind.c_str(), config->kind.c_str());
        log_message(2, "the mock warns: it computes nothing");
        return fault("buildSerializedNetwork", "Error Code 10: Could not find any implementation") ? nullptr
                                                                                                 : memory_of("a plan");
    });
    name("network", "num_inputs", [](Object*) { return count(true); });
    name("network", "num_outputs", [](Object*) { return count(false); });
    name("network", "get_input", [](Object*, std::int32_t index) { return tensor_object(nth(true, index)); });
    name("network", "get_output", [](Object*, std::int32_t index) { return tensor_object(nth(false, index)); });
    name("network", "mark_unfused_tensors_as_debug_tensors", [](Object*) {
        note("network markUnfusedTensorsAsDebugTensors");
        return true;
    });
    name("tensor", "name", [](Object* self) { return self->tensor.name.c_str(); });
    name("tensor", "shape", [](Object* self) { return self->tensor.dims; });
    name("tensor", "dtype", [](Object* self) { return self->tensor.dtype; });
    name("profile", "set_shape", [](Object*, char const* input, std::int32_t which, Dims const& dims) {
        note("profile setDimensions %s %d %s", input, which, text(dims).c_str());
        return true;
    });
    name("parser", "parse", [](Object*, void const* data, std::size_t size, char const*) {
        unsigned sum = 0;
        for (std::size_t k = 0; k < size; ++k)
        {
            sum = sum * 31 + static_cast<unsigned char const*>(data)[k];
        }
        note("parser parse size=%zu sum=%u", size, sum);
        return script.parser_errors.empty();
    });
    name("parser", "num_errors", [](Object*) { return static_cast<std::int32_t>(script.parser_errors.size()); });
    name("parser", "get_error", [](Object*, std::int32_t index) {
        auto* error = made("parser_error");
        error->tensor.dtype = index;
        return error;
    });
    name("parser_error", "code", [](Object* self) { return script.parser_errors[self->tensor.dtype].code; });
    name("parser_error", "desc", [](Object* self) { return script.parser_errors[self->tensor.dtype].text.c_str(); });
    name("parser_error", "node_name", [](Object* self) { return script.parser_errors[self->tensor.dtype].node.c_str(); });
    name("parser_error", "node_operator",
        [](Object* self) { return script.parser_errors[self->tensor.dtype].operation.c_str(); });
}

void name_config()
{
    name("config", "clear_flag", [](Object*, std::int32_t flag) { note("config clearFlag %d", flag); });
    name("config", "set_flag", [](Object*, std::int32_t flag) { note("config setFlag %d", flag); });
    name("config", "profiling_verbosity", [](Object*, std::int32_t how) { note("config setProfilingVerbosity %d", how); });
    name("config", "builder_optimization_level",
        [](Object*, std::int32_t level) { note("config setBuilderOptimizationLevel %d", level); });
    name("config", "set_memory_pool_limit", [](Object*, std::int32_t pool, std::size_t size) {
        note("config setMemoryPoolLimit %d %zu", pool, size);
    });
    name("config", "add_optimization_profile", [](Object*, Object* profile) {
        note("config addOptimizationProfile %s", profile->kind.c_str());
        return std::int32_t{0};
    });
    name("config", "create_timing_cache", [](Object*, void const* data, std::size_t size) {
        note("config createTimingCache size=%zu", size);
        auto* cache = made("timing_cache");
        cache->bytes.assign(static_cast<char const*>(data), size);
        return cache;
    });
    name("config", "set_timing_cache", [](Object* self, Object& cache, bool ignore_mismatch) {
        note("config setTimingCache ignore_mismatch=%d", ignore_mismatch);
        self->profiler = &cache;
        return !fault("setTimingCache", "the timing cache is of another device");
    });
    name("config", "get_timing_cache", [](Object* self) { return static_cast<Object*>(self->profiler); });
    name("timing_cache", "combine", [](Object* self, Object& other, bool ignore_mismatch) {
        note("timing_cache combine ignore_mismatch=%d", ignore_mismatch);
        self->bytes += other.bytes;
        return true;
    });
    name("timing_cache", "serialize", [](Object* self) { return memory_of(self->bytes + "."); });
    name("memory", "data", [](Object* self) { return self->bytes.data(); });
    name("memory", "dtype", [](Object*) { return std::int32_t{2}; }); // INT8: bytes
    name("memory", "nbytes", [](Object* self) { return self->bytes.size(); });
}

void name_run()
{
    name("runtime", "deserialize_cuda_engine", [](Object*, void const* data, std::size_t size) -> Object* {
        note("runtime deserializeCudaEngine '%s'", std::string(static_cast<char const*>(data), size).c_str());
        return fault("deserializeCudaEngine", "the plan is of another version") ? nullptr : made("engine");
    });
    name("engine", "num_io_tensors", [](Object*) { return static_cast<std::int32_t>(script.tensors.size()); });
    name("engine", "get_tensor_name", [](Object*, std::int32_t index) {
        auto const last = static_cast<std::int32_t>(script.tensors.size()) - 1;
        return script.tensors[script.faults.count("reversed") ? last - index : index].name.c_str();
    });
    name("engine", "get_tensor_mode",
        [](Object*, char const* name) { return std::int32_t{tensor_named(name).is_input ? 1 : 2}; });
    name("engine", "get_tensor_shape", [](Object*, char const* name) { return tensor_named(name).dims; });
    name("engine", "get_tensor_dtype", [](Object*, char const* name) { return tensor_named(name).dtype; });
    name("engine", "get_tensor_profile_shape", [](Object*, char const* name, std::int32_t profile, std::int32_t which) {
        note("engine getProfileShape %s %d", name, profile);
        Dims dims = tensor_named(name).dims;
        dims.size[0] = dims.size[0] == -1 ? std::int64_t{1} << (2 * which) : dims.size[0]; // 1, 4, 16
        return dims;
    });
    name("engine", "create_execution_context", [](Object*) {
        note("engine createExecutionContext");
        return fault("createExecutionContext", "out of memory") ? nullptr : made("context");
    });
    name("engine", "create_engine_inspector", [](Object*) { return made("inspector"); });
    name("inspector", "execution_context", [](Object*, Object* context) {
        note("inspector setExecutionContext %s", context ? context->kind.c_str() : "none");
        return true;
    });
    name("inspector", "get_engine_information", [](Object*, std::int32_t format) {
        note("inspector getEngineInformation %d", format);
        return script.inspector.c_str();
    });
    name("context", "set_input_shape", [](Object* self, char const* input, Dims const& dims) {
        note("context setInputShape %s %s", input, text(dims).c_str());
        self->shapes[input] = dims;
        return !fault("setInputShape", "the shape is outside the optimization profile");
    });
    name("context", "get_tensor_shape", [](Object* self, char const* name) { return shape_in(self, tensor_named(name)); });
    name("context", "set_tensor_address", [](Object* self, char const* name, void* address) {
        note("context setTensorAddress %s %ld", name, reinterpret_cast<long>(address));
        self->addresses[name] = address;
        return true;
    });
    name("context", "execute_async_v3", &execute);
    name("context", "profiler", [](Object* self, void* profiler) { self->profiler = profiler; });
    name("context", "set_debug_listener", [](Object* self, void* listener) {
        note("context setDebugListener");
        self->listener = listener;
        return true;
    });
    name("context", "unfused_tensors_debug_state", [](Object*, bool state) {
        note("context setUnfusedTensorsDebugState %d", state);
        return true;
    });
}

void start(void* given, std::int32_t version = 0)
{
    logger = given ? given : logger;
    major = version ? version / 10000 : major;
    static bool ready = false;
    if (std::exchange(ready, true))
    {
        return;
    }
    if (char const* path = std::getenv("MOCK_SLOTS"))
    {
        std::ifstream file(path);
        std::string kind, method;
        for (int entry; file >> kind >> method >> entry;)
        {
            entries[kind + " " + method] = entry;
        }
    }
    name_build();
    name_config();
    name_run();
}

} // namespace

extern "C"
{
    void mock_give_zero(int on)
    {
        give_zero = on != 0;
    }

    void mock_reset(char const* script_path, char const* log_path)
    {
        script = {};
        read_script(script_path);
        setenv("MOCK_LOG", log_path, 1);
    }

    void* createInferBuilder_INTERNAL(void* given, std::int32_t version)
    {
        start(given, version);
        note("createInferBuilder %d", version);
        return fault("createInferBuilder", "CUDA initialization failure with error: 35") ? nullptr : made("builder");
    }

    void* createInferRuntime_INTERNAL(void* given, std::int32_t version)
    {
        start(given, version);
        return made("runtime");
    }

    void* createInferRefitter_INTERNAL(void*, void* given, std::int32_t)
    {
        start(given);
        return made("refitter");
    }

    void* createNvOnnxParser_INTERNAL(void*, void* given, std::int32_t)
    {
        start(given);
        return made("parser");
    }

    void* createNvOnnxParserRefitter_INTERNAL(void*, void* given, std::int32_t)
    {
        start(given);
        return made("parser_refitter");
    }

    std::int32_t getNvOnnxParserVersion()
    {
        return 0;
    }

    void* getBuilderPluginRegistry(std::int32_t)
    {
        start(nullptr);
        return made("registry");
    }

    void* getPluginRegistry()
    {
        start(nullptr);
        return made("registry");
    }

    bool initLibNvInferPlugins(void*, char const*)
    {
        return true;
    }
}
