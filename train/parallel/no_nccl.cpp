#include "recipes/schema/error.h"
#include "train/parallel/backend.h"

namespace tune {

c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>&, const Rank&,
                                            std::chrono::milliseconds) {
  throw Error{Fault::recipe,
              {},
              "this program was built without NCCL, which ranks on GPUs need",
              "build it where CUDA and NCCL's nccl.h are found (tune doctor), or set train.device: cpu"};
}

}  // namespace tune
