// consumer LIBRARY: reads the first input from stdin, writes the first output to stdout.
#include <deepseek_edge.hpp>

#include <cstdio>
#include <iostream>

int main(int argc, char **argv) try {
  if (argc != 2) return 2;
  deepseek_edge::Model opened(argv[1], 2), model = std::move(opened);
  auto input = model.inputs().at(0), output = model.outputs().at(0);
  if (std::fread(input.data<float>(), 4, input.size(), stdin) != input.size()) return 2;
  if (model.run_timed().size() != 3) return 1;
  model.run();
  std::fwrite(output.data<float>(), 4, output.size(), stdout);

  std::cerr << model.entries() << ' ' << model.entry_name(1) << ' ' << output.name << ' '
            << output.shape.at(1) << '\n';
  try {
    output.data<std::int8_t>();
    return 1;
  } catch (const deepseek_edge::Error &error) {
    std::cerr << error.what() << '\n';
  }
  model.run(9);
  return 1;
} catch (const deepseek_edge::Error &error) {
  std::cerr << error.what() << '\n';
  return error.status == DSE_ERROR_ARGUMENT ? 0 : 3;
}
